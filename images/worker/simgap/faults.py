"""What an object store's refusals mean: most pass by themselves, the others need something set."""

import re

from simgap.errors import Missing, SimgapError, StoreFailed

KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
MEANINGS = {
    "AccessDenied": "the user of AWS_ACCESS_KEY_ID may not do this; give it the policy, or set another user's keys",
    "AuthorizationHeaderMalformed": "AWS_REGION is not the bucket's region; set it",
    "ExpiredToken": "AWS_SESSION_TOKEN has expired; set a new one, with its keys",
    "IllegalLocationConstraintException": "AWS_REGION is not the bucket's region; set it",
    "InvalidAccessKeyId": f"AWS_ACCESS_KEY_ID is not known there; {KEYS}",
    "InvalidBucketName": "no name that a bucket can have; correct the URL",
    "InvalidToken": "AWS_SESSION_TOKEN is not valid; unset it, or set it with its keys",
    "NoSuchBucket": "there is no such bucket; correct the URL, or let `simgap store init` make the store's",
    "NotImplemented": "the server cannot do this; the store needs one with conditional puts, such as MinIO",
    "PermanentRedirect": "AWS_REGION is not the bucket's region; set it",
    "RequestTimeTooSkewed": "this machine's clock differs from the server's; set it",
    "SignatureDoesNotMatch": f"AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID; {KEYS}",
}
"""By S3's error code, as servers send it."""
STATUSES = {
    "301": MEANINGS["PermanentRedirect"],
    "400": "the server refused the request; are AWS_REGION and AWS_SESSION_TOKEN right?",
    "401": f"the server does not know these credentials; {KEYS}",
    "403": f"these credentials may not do this; {KEYS} of a user who may",
}
"""By status, where an answer has no code: HEAD's have none."""
PASSING = ("NoSuchUpload", "RequestTimeout", "SlowDown")
"""Codes that a later try may not meet, whatever their status."""
CREDENTIALS_SERVICE = "169.254.169.254"
"""Where obstore asks for credentials, when it was given none, as on a machine of Amazon's."""


def told(url: str, error: Exception) -> SimgapError:
    """An error of a bucket in one line: `Missing`, `StoreFailed` for what may pass, else SimgapError that says what to
    set. Of what the server sent, only its code is repeated: an answer may name keys."""
    text = str(error)
    code, status = _first(r"(?:<Code>|\(code: )(\w+)", text), _first(r"status code: (\d+)", text)
    if CREDENTIALS_SERVICE in text:
        return SimgapError(f"{url}: no credentials; {KEYS}")
    if code in MEANINGS:
        return SimgapError(f"{url}: {MEANINGS[code]} ({code})")
    if code not in PASSING and status == "404":
        return Missing(f"{url}: no such object")
    if code not in PASSING and status in STATUSES:
        return SimgapError(f"{url}: {STATUSES[status]} ({code or status})")
    if "redirect without LOCATION" in text:
        return SimgapError(f"{url}: {MEANINGS['PermanentRedirect']}")
    if "error sending request" in text and status is None:
        return StoreFailed(f"{url}: the server cannot be reached; is AWS_ENDPOINT_URL right, and is it up?")
    return StoreFailed(f"{url}: the server failed, this time ({code or status or text.splitlines()[0]})")


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found[1] if found else None
