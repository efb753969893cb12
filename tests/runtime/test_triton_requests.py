"""Facts of kdx/runtime/triton_requests.py; tests/serve/test_load.py asks a real server."""

import io

import pytest
from PIL import Image

from kdx.core.errors import DataError, UsageError
from kdx.runtime.triton_requests import (
    IMAGE_BATCH,
    MAX_REQUEST_BYTES,
    SENT_BYTES,
    check_size,
    count_pixels,
    from_message,
    in_requests,
    to_message,
)


def _picture(width: int, height: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, kind)
    return file.getvalue()


SMALL, LARGE = _picture(10, 10), _picture(7000, 5000)  # of 35 million pixels; a request holds 67


def _sizes(images: list[bytes], size: int = IMAGE_BATCH) -> list[int]:
    return [len(group) for group in in_requests(((image, image) for image in images), size)]


def test_a_client_sends_as_much_in_a_request_as_the_server_takes() -> None:
    assert _sizes([]) == []
    assert _sizes([SMALL] * 35) == [16, 16, 3] and _sizes([SMALL] * 5, 2) == [2, 2, 1]
    assert _sizes([LARGE, LARGE, SMALL, SMALL]) == [1, 3]
    assert _sizes([bytes(SENT_BYTES), SMALL, SMALL]) == [1, 2]
    assert _sizes([bytes(2 * SENT_BYTES), bytes(SENT_BYTES // 2), bytes(SENT_BYTES // 2)]) == [1, 2]
    for group in in_requests(((image, image) for image in [LARGE, SMALL, LARGE, LARGE] * 9), IMAGE_BATCH):
        check_size([image for _, image in group])


@pytest.mark.parametrize("images", [[SMALL] * 17, [LARGE] * 2, [bytes(MAX_REQUEST_BYTES), SMALL]])
def test_what_is_too_much_for_a_request_is_the_callers_fault(images: list[bytes]) -> None:
    with pytest.raises(UsageError) as caught:
        check_size(images)
    assert caught.value.remedy


def test_one_image_too_large_is_left_to_decoding() -> None:
    check_size([_picture(10_000, 10_000)])
    check_size([_picture(20_000, 10_000)])


def test_pixels_are_counted_without_decoding() -> None:
    assert count_pixels(_picture(30, 20, "TIFF")) == 600
    assert count_pixels(_picture(7000, 5000)[:60]) == 35_000_000
    assert count_pixels(b"no image") == count_pixels(b"") == 0


def test_an_error_keeps_its_owner_whatever_triton_puts_before_it() -> None:
    error = DataError("is damaged", where="images[3]", remedy="naïve 🙂")
    found = from_message("Failed to process: " + to_message(error))
    assert isinstance(found, DataError) and found.to_dict() == error.to_dict()


@pytest.mark.parametrize(
    "message", ["", "queue full", "kdx error: {", "kdx error: [1]", 'kdx error: {"class": "X"}']
)
def test_a_message_of_others_is_no_error_of_kdx(message: str) -> None:
    assert from_message(message) is None
