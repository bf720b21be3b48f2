"""A picture by its path or address."""

import base64
import binascii
from pathlib import Path
from typing import Any

from huggingface_hub.utils import httpx

from theworld_encoders import MediaError, decode_image, load_image
from theworld_encoders.images import URLS
from theworld_encoders.preprocess import Item


def load_picture(item: Any) -> Item:
    """A picture that is given by its path or URL (``data:`` too); anything else is returned as it is."""
    if isinstance(item, str) and item.startswith(URLS):
        return decode_image(_fetch(item), repr(item[:100]))
    return load_image(item) if isinstance(item, str | Path) else item


def _fetch(url: str) -> bytes:
    """Not by transformers' ``load_image``: it drops transparency, and what lies below may be black."""
    try:
        if url.startswith("data:"):
            return base64.b64decode(url.partition(",")[2], validate=True)
        return httpx.get(url, follow_redirects=True, timeout=60).raise_for_status().content
    except (httpx.HTTPError, httpx.InvalidURL, binascii.Error) as error:
        reason = " ".join(str(error).split())
        raise MediaError(f"The picture {url[:100]!r} cannot be fetched ({reason}). Check its address.") from error
