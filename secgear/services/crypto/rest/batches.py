"""Batches as Vault has them: each item has its result or its error, and the whole has a status."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from secgear.services.crypto.pkcs11.rv import CryptokiError
from secgear.services.crypto.rest.refusals import Refusal, of
from secgear.services.crypto.rest.routes import Partial

Item = TypeVar("Item")
Result = TypeVar("Result")
MAX_BATCH: Final = 1024  # items
_STATUSES: Final = range(200, 600)


def run(
    items: Sequence[Item],
    each: Callable[[Sequence[Item]], Iterable[Result | Refusal | CryptokiError]],
    failed: Callable[[Item, str], Result],
    whole: Callable[[list[Result]], Any],
    status: int | None = None,
) -> Any:
    """The answer to a batch.

    each: gives the items' results in their order, or what was wrong with them. failed: gives the
    result of an item with which something was. whole: makes the answer of all results.
    status: for a batch in which some items failed and others did not; 400 if nobody says. Raises
    Refusal for what is no batch, and for failures of the module, which are nobody's item's.
    """
    if not items:
        raise Refusal(400, "missing batch input to process")
    if len(items) > MAX_BATCH:
        raise Refusal(400, f"a batch has at most {MAX_BATCH} items")
    if status is not None and status not in _STATUSES:
        raise Refusal(400, "partial_failure_response_code: a status of HTTP")
    results: list[Result] = []
    failures = 0
    for item, outcome in zip(items, each(items), strict=True):
        if not isinstance(outcome, Refusal | CryptokiError):
            results.append(outcome)
            continue
        refusal = outcome if isinstance(outcome, Refusal) else of(outcome)
        if refusal.status >= 500:
            raise refusal
        failures += 1
        results.append(failed(item, refusal.texts[0] if refusal.texts else "refused"))
    if not failures:
        return whole(results)
    some = failures < len(results)
    return Partial(status if status is not None and some else 400, whole(results))


def singly(
    one: Callable[[Item], Result],
) -> Callable[[Sequence[Item]], Iterator[Result | Refusal | CryptokiError]]:
    """Results by one item after the other."""

    def each(items: Sequence[Item]) -> Iterator[Result | Refusal | CryptokiError]:
        for item in items:
            try:
                yield one(item)
            except (Refusal, CryptokiError) as error:
                yield error

    return each
