"""Reading the documents that packed rows need: located, fetched ahead, and turned into tokens."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.packing.batches import Arrival
from mosaic_dataloader.packing.lane import Lane
from mosaic_dataloader.packing.scheduler import DocumentRequest, DocumentScheduler
from mosaic_dataloader.reading.documents import joined, separated
from mosaic_dataloader.storage.lookahead import LaneLookAhead

# Of lanes and of their documents' numbers, both int64[n], the sample ids.
Locate = Callable[[Int64Array, Int64Array], Int64Array]


class DocumentRequests:
    """What a scheduler asks for, one request after the other, each with its documents' places."""

    def __init__(
        self, mixture: Mixture, locate: Locate, lanes: Sequence[Lane], scheduler: DocumentScheduler
    ):
        self._mixture = mixture
        self._locate = locate
        self._scheduler = scheduler
        self._numbers = np.array([lane.number for lane in lanes], np.int64)
        # Made, and not yet passed on to the look-ahead.
        self._made: deque[DocumentRequest] = deque()
        self.look_ahead: LaneLookAhead | None = None

    def __iter__(self) -> Iterator[DocumentRequest]:
        """The requests, without end."""
        while True:
            request = self._scheduler.request()
            ids = self._ids(request.lanes, request.documents)
            request.shards, request.places = (part.tolist() for part in self._mixture.locate(ids))
            request.streams = self._mixture.stream_of(ids).tolist()
            self._made.append(request)
            yield request

    def fetch_ahead(self) -> None:
        """Pass what was asked for on to the look-ahead."""
        while self._made:
            request = self._made.popleft()
            if self.look_ahead:
                self.look_ahead.read(request.lanes, request.documents, request.shards)

    def shards_of(self, lanes: Sequence[int], documents: Sequence[int]) -> list[int]:
        """Shards of documents, by the indexes of their lanes and their numbers."""
        shards: list[int] = self._mixture.locate(self._ids(lanes, documents))[0].tolist()
        return shards

    def _ids(self, lanes: Sequence[int], documents: Sequence[int]) -> Int64Array:
        numbers = self._numbers[np.array(lanes, np.int64)]
        return self._locate(numbers, np.array(documents, np.int64))


def read_here(dataset: StreamingTextDataset, requests: DocumentRequests) -> Iterator[Arrival]:
    """Documents read in this process."""
    for request in requests:
        requests.fetch_ahead()
        yield request, dataset.documents.read(request.shards, request.places)


def read_by_workers(
    answers: Iterator[tuple[DocumentRequest, Any]], requests: DocumentRequests
) -> Iterator[Arrival]:
    """Documents that worker processes have read (see `fetch_documents`)."""
    requests.fetch_ahead()
    for request, answer in answers:
        requests.fetch_ahead()
        yield request, separated(*answer)


def fetch_documents(dataset: StreamingTextDataset, shards: list[int], places: list[int]) -> Any:
    """Read documents in a worker; they come through its pipe as two arrays."""
    return joined(dataset.documents.read(shards, places))
