"""`wm plan` and `wm profile` on the command line: options, text, the page."""
