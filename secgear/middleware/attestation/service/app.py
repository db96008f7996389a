"""The ASGI application, put together from its parts.

`compose` is for any service with this database, these administrators and this audit trail;
`create_app` is the verification service.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from litestar import Litestar
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler

from secgear.errors import ServiceError
from secgear.middleware.attestation.service import openapi, problems, public
from secgear.middleware.attestation.service.administration import audit_routes, document_routes
from secgear.middleware.attestation.service.appraiser import Appraiser, Clock, utc_now
from secgear.middleware.attestation.service.documents import Kind, Shelf
from secgear.middleware.attestation.service.http import DATABASE_THREADS, Service, guard
from secgear.middleware.attestation.service.keyfile import open_keys
from secgear.middleware.attestation.service.limits import Buckets, Space, Threads
from secgear.middleware.attestation.service.metrics import Metrics
from secgear.middleware.attestation.service.preparing import prepare
from secgear.middleware.attestation.service.schema import ATTESTATION, COMMON, Layout
from secgear.middleware.attestation.service.settings import Settings
from secgear.middleware.attestation.service.store import open_store

_DESCRIPTION: Final = (
    "Judges evidence of trusted execution environments under policies and signs the result. "
    "An attester gets a nonce from /v1/challenge, puts it into its evidence, sends that to "
    "/v1/attest, and shows the signed result to whoever relies on it, who verifies it with the "
    "keys of /v1/keys. Errors are application/problem+json with a stable `code`."
)


# Bodies of the largest size that may be here at once: from one address, and from all.
_BODIES_EACH: Final = 4
_BODIES: Final = 32


def create_app(settings: Settings, *, clock: Clock = utc_now) -> Litestar:
    """The verification service. Raises ServiceError, KeyFileError, CollateralError at start."""
    service = open_service(settings, ATTESTATION)
    file = open_keys(settings.keys_path)
    appraiser = Appraiser(
        store=service.store,
        settings=settings,
        anchors=settings.anchors(),
        keys=lambda: file.keys,
        shelf=Shelf(service.store),
        metrics=service.metrics,
        clock=clock,
    )
    routes = public.attestation_routes(appraiser)
    for kind in Kind:
        routes += document_routes(kind, clock)
    return compose(service, routes, "secGear verification service", _DESCRIPTION)


def open_service(settings: Settings, *components: Layout) -> Service:
    """Database, metrics and limits, with the tables of `components`. Raises ServiceError."""
    try:
        settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ServiceError(f"settings: {settings.directory}: {error.strerror}") from None
    return Service(
        settings=settings,
        store=open_store(settings.database_url, COMMON, *components),
        metrics=Metrics(),
        database=Threads(DATABASE_THREADS, settings.queue),
        verification=Threads(settings.verifications, settings.queue),
        bodies=Space(_BODIES_EACH * settings.max_body, _BODIES * settings.max_body),
        failures=Buckets(settings.failure_rate),
    )


def compose(
    service: Service,
    routes: Sequence[HTTPRouteHandler],
    title: str,
    description: str,
    on_shutdown: Sequence[Callable[[], None]] = (),
) -> Litestar:
    """An application with these routes besides those that each has: audit, health, metrics."""
    prepare()
    return Litestar(
        route_handlers=[
            *routes,
            *audit_routes(),
            *public.operations_routes(),
            openapi.openapi_route(),
        ],
        state=State({"service": service}),
        guards=[guard],
        exception_handlers={Exception: problems.handle},
        openapi_config=openapi.configuration(title, description),
        request_max_body_size=service.settings.max_body,
        on_shutdown=[*on_shutdown, service.store.close],
        logging_config=None,  # logging is the caller's to configure
        debug=False,
    )
