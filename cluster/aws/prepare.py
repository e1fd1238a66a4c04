"""`wm cluster prepare`: what a cluster on AWS needs before the first `ray up`, in the account and on this machine."""

import urllib.request
from pathlib import Path

from cluster.aws.account import network, prepare_account
from cluster.files.aws_checks import is_aws
from cluster.files.read import bucket_of, load_cluster_file, storage_of
from cluster.files.token import prepare_token
from datasets.runtime.errors import UserError

WHO_AM_I = "https://checkip.amazonaws.com"
TIMEOUT_S = 10.0


def prepare(path: Path, address: str | None = None, new_image: bool = False) -> None:
    """Make what the cluster file names and is missing, and print it line by line. May be repeated.

    Args:
        path: the cluster file.
        address: who may reach SSH (default: the address that AWS sees of this machine).
        new_image: take AWS's newest image although the account has one stored.
    Raises:
        UserError: the file is for no AWS, has fields left to change, or AWS refuses.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    config = load_cluster_file(path)
    print(prepare_token())
    if not is_aws(config):
        print("nothing else is needed: this file is not for AWS")
        return
    if "CHANGE_ME" in bucket_of(storage_of(config)):
        raise UserError(f"{path}: WM_STORAGE is {storage_of(config)}; expected your bucket in place of CHANGE_ME")
    owner = network(address or own_address())
    try:
        for line in prepare_account(config, owner, new_image):
            print(line)
    except (BotoCoreError, ClientError) as error:
        raise UserError(f"AWS refused: {' '.join(str(error).split())}") from error


def own_address() -> str:
    """The address that AWS sees of this machine.

    Raises:
        UserError: it cannot be asked.
    """
    try:
        with urllib.request.urlopen(WHO_AM_I, timeout=TIMEOUT_S) as answer:
            return answer.read(64).decode().strip()
    except OSError as error:
        raise UserError(
            f"{WHO_AM_I} cannot be reached ({error}): give your address, such as --address 203.0.113.7"
        ) from error
