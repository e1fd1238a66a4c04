"""Connecting to a bucket: URIs and the usual environment variables -> a client of obstore, and its errors -> ours."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import GCSStore, S3Store

from datasets.runtime.errors import UserError
from datasets.runtime.uris import parse_uri, without_credentials

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

REQUEST = re.compile(r"Error performing (?P<request>\w+ \S+) in .*? - (?P<reason>.*)")
RETRY_S = 60.0
"""How long a request is tried again, if the URI has no option retry_limit_seconds."""
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
"""Without a byte of the answer."""
REQUEST_TIMEOUT_S = 3600
"""For all of it: a shard over a slow line takes minutes."""
DEFAULT_REGION = "us-east-1"
GOOGLE_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
ANONYMOUS = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
"""A service account that signs nothing: the client's own option for it still asks for a token when it writes."""
OPTIONS = {
    "s3": ("endpoint_override", "scheme", "region", "retry_limit_seconds", "allow_delayed_open"),
    "gs": ("endpoint_override", "scheme", "retry_limit_seconds"),
}
"""Options in a URI's query, named as pyarrow names them."""


def connect(uri: str, *, retry_s: float = RETRY_S) -> S3Store | GCSStore:
    """A client for the folder of a URI; no request is made yet, but credentials are looked up.

    S3 takes keys from the URI, or from where boto3 looks: AWS_* variables, profiles, web identities, container and
    instance roles. Google Cloud Storage takes GOOGLE_APPLICATION_CREDENTIALS, gcloud's default credentials or the
    instance's account; `gs://anonymous@BUCKET` none.

    Raises:
        UserError: unknown option, or no credentials.
    """
    match = parse_uri(uri)
    scheme = "gs" if match["scheme"] in ("gs", "gcs") else match["scheme"]
    options = dict(parse_qsl(match["query"] or ""))
    if unknown := sorted(options.keys() - set(OPTIONS[scheme])):
        raise UserError(f"{without_credentials(uri)}: found option {unknown[0]}; expected {', '.join(OPTIONS[scheme])}")
    user, _, bucket = match["authority"].rpartition("@")
    prefix = unquote(match["path"]).strip("/") or None
    retry_s = float(options.get("retry_limit_seconds", retry_s))
    retry: RetryConfig = {
        "max_retries": 1000,
        "retry_timeout": timedelta(seconds=retry_s),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=3), "base": 2},
    }
    endpoint = options.get("endpoint_override")
    if endpoint is not None and "://" not in endpoint:
        endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
    if scheme == "gs":
        client = _client_options(endpoint)
        config: dict[str, Any] = {"base_url": endpoint} if endpoint else {}
        google_provider = None
        if user == "anonymous":
            config["service_account_key"] = json.dumps(ANONYMOUS)
        else:
            google_provider = _google_credentials(uri)
        return GCSStore(
            bucket,
            prefix=prefix,
            config=config,
            client_options=client,
            retry_config=retry,
            credential_provider=google_provider,
        )
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = {"endpoint": endpoint} if endpoint else {}
    region = options.get("region") or os.environ.get("AWS_REGION")
    provider = None
    if user:
        key, _, secret = user.partition(":")
        config |= {"access_key_id": unquote(key), "secret_access_key": unquote(secret)}
        region = region or os.environ.get("AWS_DEFAULT_REGION")
    else:
        provider, profile_region = _aws_credentials(uri)
        region = region or profile_region
    config["region"] = region or (DEFAULT_REGION if endpoint else _region_of(bucket))
    return S3Store(
        bucket,
        prefix=prefix,
        config=config,
        client_options=_client_options(endpoint),
        retry_config=retry,
        credential_provider=provider,
    )


@contextmanager
def reported_errors(location: str, *, missing_is_bucket: bool = False) -> Iterator[None]:
    """Turn the client's exceptions into OSError, or UserError where trying again is of no use.

    Args:
        missing_is_bucket: "not found" says that the bucket is missing, since the request names no file to read.
    """
    try:
        yield
    except FileNotFoundError as error:
        if missing_is_bucket or "NoSuchBucket" in str(error):
            raise _missing_bucket(location) from error
        raise FileNotFoundError(f"{location}: no such file") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise UserError(f"{location}: access denied ({_code(error)}); check credentials and permissions") from error
    except BaseError as error:
        text = str(error)
        if "NoSuchBucket" in text or (missing_is_bucket and "404 Not Found" in text):
            raise _missing_bucket(location) from error
        if "InvalidAccessKeyId" in text or "SignatureDoesNotMatch" in text:
            raise UserError(f"{location}: access denied ({_code(error)}); check credentials") from error
        raise OSError(f"{location}: {_reason(text)}") from error


def _missing_bucket(location: str) -> UserError:
    bucket = "/".join(location.split("/", 3)[:3])
    return UserError(f"{location}: there is no bucket {bucket}; create it, or correct the URI")


def _reason(text: str) -> str:
    """The client's message without its own settings."""
    line = text.splitlines()[0].strip()
    failed = REQUEST.search(line)
    return f"{failed['request']} failed ({failed['reason'] or 'no answer'})" if failed else line


def _code(error: BaseException) -> str:
    """S3's code of an error, such as InvalidAccessKeyId; the exception's name if there is none."""
    return str(error).partition("<Code>")[2].partition("</Code>")[0] or type(error).__name__


def _client_options(endpoint: str | None) -> ClientConfig:
    return {
        "allow_http": bool(endpoint and endpoint.startswith("http://")),
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
        "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
    }


def _aws_credentials(uri: str) -> tuple[Any, str | None]:
    """Provider of credentials, and the region of the profile if it names one."""
    import boto3  # slow to import
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        session = boto3.session.Session()
        credentials = session.get_credentials()
    except BotoCoreError as error:  # a profile that does not exist, a damaged file of credentials
        raise UserError(f"{without_credentials(uri)}: no AWS credentials: {error}") from error
    if credentials is None:
        raise UserError(
            f"{without_credentials(uri)}: no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "a profile (AWS_PROFILE), or give the machine a role"
        )
    return Boto3CredentialProvider(session), session.region_name


def _google_credentials(uri: str) -> Any:
    import google.auth  # slow to import
    from google.auth.exceptions import DefaultCredentialsError
    from obstore.auth.google import GoogleCredentialProvider

    try:
        credentials, _ = google.auth.default(scopes=[GOOGLE_SCOPE])
    except DefaultCredentialsError as error:
        raise UserError(
            f"{without_credentials(uri)}: no Google credentials found; set GOOGLE_APPLICATION_CREDENTIALS, run "
            "`gcloud auth application-default login`, or give the machine a service account"
        ) from error
    return GoogleCredentialProvider(credentials)


def _region_of(bucket: str) -> str:
    from pyarrow.fs import resolve_s3_region

    try:
        return resolve_s3_region(bucket)
    except OSError:  # a bucket that does not exist, or no network: the first request says so
        return DEFAULT_REGION
