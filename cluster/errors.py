"""The exception of this package whose message is for the user."""


class ClusterError(Exception):
    """A user's mistake about the cluster: one line with what was found, what was expected and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """
