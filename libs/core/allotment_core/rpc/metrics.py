"""What Prometheus can see of a server: a registry and a page of its own."""

from typing import TYPE_CHECKING

import prometheus_client

from allotment_core.errors import FailedPrecondition, clip

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class RpcMetrics:
    """Counts the calls of one server."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        """Services may add their own collectors to it."""
        prometheus_client.ProcessCollector(registry=self.registry)
        self._calls = prometheus_client.Counter(
            "allotment_rpc_calls", "Calls that ended.", ["method", "code"], registry=self.registry
        )
        self._seconds = prometheus_client.Histogram(
            "allotment_rpc_duration_seconds",
            "Time to answer unary calls.",
            ["method"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._in_flight = prometheus_client.Gauge(
            "allotment_rpc_in_flight", "Calls being served.", ["method"], registry=self.registry
        )
        self._page: WSGIServer | None = None

    def began(self, path: str) -> None:
        self._in_flight.labels(path).inc()

    def ended(self, path: str, code: str, seconds: float | None) -> None:
        """`seconds`: None for streams, whose length says nothing."""
        self._in_flight.labels(path).dec()
        self._calls.labels(path, code).inc()
        if seconds is not None:
            self._seconds.labels(path).observe(seconds)

    def serve(self, port: int, host: str = "127.0.0.1") -> int:
        """Opens the page http://host:port/metrics in a thread; the port (0 picks one).

        Raises: FailedPrecondition (ADDRESS_IN_USE).
        """
        try:
            self._page, _ = prometheus_client.start_http_server(port, host, registry=self.registry)
        except OSError as e:
            raise FailedPrecondition(
                f"can't show metrics on {clip(host)}:{port} ({e.strerror}); choose another port, "
                "or none",
                reason="ADDRESS_IN_USE",
            ) from e
        return int(self._page.server_port)

    def close(self) -> None:
        if self._page is not None:
            self._page.shutdown()
            self._page.server_close()
            self._page = None
