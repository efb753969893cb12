"""The Triton form of an Embedder: a server that takes encoded images and strings, over gRPC."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kdx.core.encoder import Embedder, EncoderSpec, FloatArray, batched, concatenate
from kdx.core.errors import DataError, KdxError, SetupError, UsageError
from kdx.core.preprocess import ImageSource, read_encoded
from kdx.core.requests import (
    SHOWN_REASON,
    at_item,
    beginning,
    check_count,
    check_images,
    check_labels,
    check_templates,
    check_texts,
    move_item,
)

from .proxy import is_loopback, proxy_to
from .triton_requests import (
    IMAGE_BATCH,
    MAX_JSON_BYTES,
    MAX_PROMPTS,
    TEXT_BATCH,
    from_message,
    in_requests,
    to_bytes_column,
)

MAX_TOP_K = 2**31 - 1  # an int32 on the wire
TIMEOUT = 60.0  # seconds for one call; tritonclient itself waits for ever
SECONDS_A_PROMPT = 0.1  # more for zero_shot, whose server may have to embed every prompt first


class BusyError(SetupError):
    """The server lives, for all one knows, and has more work than it could do in time."""


class TritonEmbedder(Embedder):
    """Asks the models `embed_image`, `embed_text` and `zero_shot` of a kdx repository at `grpc://host:port`.

    Decoding, preprocessing and tokenizing happen in the server. Several threads may share the embedder.
    Raises SetupError if no server answers, DataError if it serves no kdx model or refuses an input.
    """

    def __init__(self, url: str) -> None:
        self.connection = TritonConnection(url)
        self.spec = self.connection.read_spec()
        self.precision = self.connection.read_parameter("precision")
        self.identity = self.connection.read_parameter("identity")

    def _embed_images(self, images: Iterable[ImageSource], batch_size: int) -> FloatArray:
        size = min(check_count(batch_size, "batch_size"), IMAGE_BATCH)
        answers = [
            answer["embedding"] for answer in self._ask_about(images, "embed_image", {}, ["embedding"], size)
        ]
        return concatenate(answers, self.spec.embed_dim)

    def embed_and_count(
        self, texts: Iterable[str], batch_size: int = TEXT_BATCH
    ) -> tuple[FloatArray, int | None]:
        size = min(check_count(batch_size, "batch_size"), TEXT_BATCH)
        answers: list[FloatArray] = []
        for number, group in enumerate(batched(check_texts(texts), size)):
            column = to_bytes_column([text.encode() for text in group])
            try:
                answer = self.connection.infer("embed_text", {"text": column}, ["embedding"])
            except KdxError as error:
                raise move_item(error, "texts", number * size, group) from None
            answers.append(answer["embedding"])
        return concatenate(answers, self.spec.embed_dim), None

    def classify(
        self,
        images: Iterable[ImageSource],
        labels: Iterable[str],
        *,
        templates: Iterable[str] | None = None,
        top_k: int = 5,
    ) -> list[list[tuple[str, float]]]:
        """As every Embedder. More prompts than one request may hold are embedded by `embed_text` and compared here."""
        labels, templates = check_labels(labels), check_templates(templates)
        inputs: dict[str, npt.NDArray[Any]] = {
            "labels": _json_tensor(labels),
            "templates": _json_tensor(templates),
            "top_k": np.array([min(check_count(top_k, "top_k"), MAX_TOP_K)], dtype=np.int32),
        }
        prompts = len(labels) * len(templates)
        longest = max(len(inputs[name][0]) for name in ("labels", "templates"))
        if (
            prompts > MAX_PROMPTS or longest > MAX_JSON_BYTES
        ):  # such as ImageNet's 1,000 names in 80 templates
            return super().classify(images, labels, templates=templates, top_k=top_k)
        timeout = TIMEOUT + SECONDS_A_PROMPT * prompts
        return [
            [(label.decode(), float(score)) for label, score in zip(names, scores, strict=True)]
            for answer in self._ask_about(
                images, "zero_shot", inputs, ["label", "score"], IMAGE_BATCH, timeout
            )
            for names, scores in zip(answer["label"], answer["score"], strict=True)
        ]

    def close(self) -> None:
        self.connection.close()

    def _ask_about(
        self,
        images: Iterable[ImageSource],
        model: str,
        inputs: dict[str, npt.NDArray[Any]],
        outputs: Sequence[str],
        size: int,
        timeout: float = TIMEOUT,
    ) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """The answers about the images, up to `size` of them in a request; errors name the image among all of them."""
        pictures = ((image, _sendable(index, image)) for index, image in enumerate(check_images(images)))
        asked = 0
        for group in in_requests(pictures, size):
            column = to_bytes_column([encoded for _, encoded in group])
            try:
                yield self.connection.infer(model, {**inputs, "image": column}, outputs, timeout)
            except KdxError as error:
                raise move_item(error, "images", asked, [image for image, _ in group]) from None
            asked += len(group)


class TritonConnection:
    """Calls to one server, with a deadline each and errors in kdx's terms."""

    def __init__(self, url: str) -> None:
        from tritonclient import grpc  # pyright: ignore[reportMissingTypeStubs]

        address = url.removeprefix("grpc://")
        if "://" in address or ":" not in address:
            raise UsageError("is not the URL of a Triton server", where=url, remedy="use grpc://HOST:PORT")
        self.url = f"grpc://{address}"
        self._grpc: Any = grpc
        options: list[tuple[str, int]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
        ]
        if is_loopback(address):
            options.append(("grpc.enable_http_proxy", 0))
        self._proxy = proxy_to(address)
        self._client: Any = grpc.InferenceServerClient(address, channel_args=options)

    def infer(
        self,
        model: str,
        inputs: dict[str, npt.NDArray[Any]],
        outputs: Sequence[str],
        timeout: float = TIMEOUT,
        priority: int = 0,
    ) -> dict[str, npt.NDArray[Any]]:
        """One inference. inputs: arrays by name (object arrays are sent as BYTES). Returns arrays by name.

        priority: 1 goes before other requests that wait; 0 waits with them.
        """
        tensors: list[Any] = []
        for name, array in inputs.items():
            datatype = (
                "BYTES" if array.dtype == np.object_ else "INT32" if array.dtype == np.int32 else "FP32"
            )
            tensor = self._grpc.InferInput(name, list(array.shape), datatype)
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        wanted = [self._grpc.InferRequestedOutput(name) for name in outputs]
        result = self._call(
            lambda: self._client.infer(
                model, tensors, outputs=wanted, client_timeout=timeout, priority=priority
            ),
            model,
        )
        answers = {name: result.as_numpy(name) for name in outputs}
        for name, array in answers.items():
            if array is None:
                raise DataError(
                    f"{model} answered without {name}", where=self.url, remedy="see the server's log"
                )
        return answers

    def read_spec(self) -> EncoderSpec:
        """What the server's model is, from the configuration of `embed_image`."""
        config = self._call(
            lambda: self._client.get_model_config("embed_image", as_json=True, client_timeout=TIMEOUT),
            "embed_image",
        )
        try:
            text = config["config"]["parameters"]["spec"]["string_value"]
            return EncoderSpec.from_dict(cast(dict[str, Any], json.loads(text)))
        except (KeyError, ValueError):
            raise DataError(
                "serves no model of kdx", where=self.url, remedy="serve an exported model with `kdx serve up`"
            ) from None

    def read_verdict(self) -> str | None:
        """The parity gate's answer to the model that is served: PASS, or INCONCLUSIVE where its maker allowed that.

        None from a repository that an older kdx wrote.
        """
        return self.read_parameter("parity")

    def read_parameter(self, name: str) -> str | None:
        """What the repository says of its model; None from one that an older kdx wrote."""
        config = self._call(
            lambda: self._client.get_model_config("embed_image", client_timeout=TIMEOUT), "embed_image"
        ).config
        return config.parameters[name].string_value or None

    def read_configs(self) -> list[Any]:
        """The configuration of each model that the server has, as Triton's ModelConfig messages."""
        return [
            self._call(
                lambda model=model: self._client.get_model_config(model, client_timeout=TIMEOUT), model
            ).config
            for model in self.count_answered()
        ]

    def server_version(self) -> str:
        metadata = self._call(lambda: self._client.get_server_metadata(client_timeout=TIMEOUT), "the server")
        return str(metadata.version)

    def count_answered(self) -> dict[str, int]:
        """How many requests each model has answered, with success or an error, since the server started."""
        statistics = self._call(
            lambda: self._client.get_inference_statistics(client_timeout=TIMEOUT), "the server"
        )
        return {
            str(model.name): int(model.inference_stats.success.count + model.inference_stats.fail.count)
            for model in statistics.model_stats
        }

    def close(self) -> None:
        self._client.close()

    def _call(self, call: Any, asked: str) -> Any:
        from tritonclient.utils import InferenceServerException  # pyright: ignore[reportMissingTypeStubs]

        try:
            return call()
        except InferenceServerException as error:
            raise self._through_proxy(_translate(error, self.url, asked)) from None

    def _through_proxy(self, error: KdxError) -> KdxError:
        """On the way to a server that does not answer, the proxy may be at fault."""
        if self._proxy is None or not isinstance(error, SetupError):
            return error
        host = self.url.removeprefix("grpc://").rpartition(":")[0]
        return type(error)(
            f"{error.what}, through the proxy {self._proxy}",
            where=error.where,
            remedy=f"{error.remedy}; or set no_proxy={host} if it is reached without the proxy",
        )


def _json_tensor(strings: Sequence[str]) -> npt.NDArray[np.object_]:
    """BYTES [1]: a JSON list."""
    return np.array([json.dumps(strings, ensure_ascii=False).encode()], dtype=np.object_)


def _sendable(index: int, image: ImageSource) -> bytes:
    """The encoded file; a PIL image is sent as PNG of what it looks like in RGB."""
    try:
        return read_encoded(image)
    except DataError as error:
        raise at_item(error, "images", index, image) from None


def _translate(error: Any, url: str, asked: str) -> KdxError:
    """tritonclient's exception as what it means for the caller."""
    status, message = str(error.status() or ""), str(error.message())
    if "INVALID_ARGUMENT" in status:
        return from_message(message) or UsageError(
            beginning(message, SHOWN_REASON), where=asked, remedy="correct the request"
        )
    if "NOT_FOUND" in status:
        return DataError(
            f"does not serve {asked}", where=url, remedy="serve an exported model with `kdx serve up`"
        )
    if "DEADLINE_EXCEEDED" in status:
        return BusyError(f"{asked} did not answer in time", where=url, remedy="see the server's load and log")
    if "UNAVAILABLE" in status and "queue" in message.lower():  # words of Triton, or of a served model
        return BusyError(f"{asked} has too many requests waiting", where=url, remedy="try again later")
    if "UNAVAILABLE" in status:
        return SetupError("no Triton server answers here", where=url, remedy="start one with `kdx serve up`")
    told = from_message(message)
    reason = told.what if told else (message or status or "no reason given").splitlines()[0]
    return SetupError(f"{asked} failed: {reason}", where=url, remedy="see the server's log")
