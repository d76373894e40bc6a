"""A collector of traces: OpenTelemetry's own generated classes behind a gRPC server."""

from concurrent import futures
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from harness.server import free_port, wait_for


@dataclass
class Recorded:
    """One span, with the attributes of its resource."""

    span: Span
    resource: dict[str, Any]

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def trace(self) -> str:
        return self.span.trace_id.hex()

    @property
    def attributes(self) -> dict[str, Any]:
        return attributes(self.span.attributes)

    @property
    def failed(self) -> bool:
        return self.span.status.code == Status.STATUS_CODE_ERROR


def attributes(pairs) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, port: int | None = None):
        self.port = port or free_port()
        self.spans: list[Recorded] = []
        self.calls = 0
        self.refuse = False
        self.server: grpc.Server | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def Export(self, request, context):  # the name is the protocol's
        self.calls += 1
        if self.refuse:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")
        for resource_spans in request.resource_spans:
            resource = attributes(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                assert scope_spans.scope.name
                self.spans += [Recorded(span, resource) for span in scope_spans.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def start(self) -> "Collector":
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        assert self.server.add_insecure_port(f"127.0.0.1:{self.port}") == self.port
        self.server.start()
        return self

    def stop(self):
        if self.server is not None:
            self.server.stop(None).wait()
            self.server = None

    def roots(self) -> list[Recorded]:
        """The requests' own spans."""
        return [each for each in self.spans if each.span.kind == Span.SPAN_KIND_SERVER]

    def wait_for_roots(self, count: int, seconds: float = 10) -> list[Recorded]:
        wait_for(lambda: len(self.roots()) >= count, seconds, f"{count} requests' spans")
        assert len(self.roots()) == count
        return self.roots()

    def phases_of(self, root: Recorded) -> dict[str, Recorded]:
        children = [each for each in self.spans if each.span.parent_span_id == root.span.span_id]
        assert len({each.name for each in children}) == len(children)
        return {each.name: each for each in children}
