"""gRPC calls through the gateway, with the server and the client of grpcio, which is gRPC's C++ core.

Messages are bytes and handlers are generic, so nothing is generated.
"""

import concurrent.futures
import os
import queue
import threading

ROUTES = """
[[routes]]
name = "open"
match = {{ path = "/open.Echo" }}
upstream = ["http://127.0.0.1:{port}"]
http2 = true
auth = "none"
max_body = "1MB"

[[routes]]
name = "closed"
match = {{ path = "/closed.Echo" }}
upstream = ["http://127.0.0.1:{port}"]
http2 = true
auth = "required"

[[routes]]
name = "scoped"
match = {{ path = "/scoped.Echo" }}
upstream = ["http://127.0.0.1:{port}"]
http2 = true
auth = "required"
require = {{ scopes = ["write"] }}

[[routes]]
name = "slow"
match = {{ path = "/slow.Echo" }}
upstream = ["http://127.0.0.1:{port}"]
http2 = true
auth = "none"
read_timeout = "1s"

[[routes]]
name = "dead"
match = {{ path = "/dead.Echo" }}
upstream = ["http://127.0.0.1:{dead}"]
http2 = true
auth = "none"
"""


def same(message):
    return message


class Echo:
    """A server whose methods are told by the last part of the path, whatever the service."""

    def __init__(self, grpc):
        self.grpc = grpc
        self.seen, self.ended = queue.Queue(), queue.Queue()

    def service(self, details):
        name = details.method.rsplit("/", 1)[1]
        self.seen.put((details.method, dict(details.invocation_metadata)))
        kind, method = {
            "Unary": (self.grpc.unary_unary_rpc_method_handler, self.unary),
            "Count": (self.grpc.unary_stream_rpc_method_handler, self.count),
            "Join": (self.grpc.stream_unary_rpc_method_handler, self.join),
            "Chat": (self.grpc.stream_stream_rpc_method_handler, self.chat),
            "Wait": (self.grpc.unary_unary_rpc_method_handler, self.wait),
            "Refuse": (self.grpc.unary_unary_rpc_method_handler, self.refuse),
        }[name]
        return kind(method, request_deserializer=same, response_serializer=same)

    def unary(self, message, context):
        context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last-bin", b"\0\1"),))
        return message

    def count(self, message, _context):
        for number in range(int(message)):
            yield str(number).encode()

    def join(self, messages, _context):
        return b"".join(messages)

    def chat(self, messages, context):
        context.add_callback(lambda: self.ended.put("chat"))
        for message in messages:
            yield message

    def wait(self, _message, context):
        left, over = context.time_remaining(), threading.Event()
        if not context.add_callback(over.set):
            over.set()
        over.wait(30)
        self.ended.put(left)
        return b"too late"

    def refuse(self, _message, context):
        context.abort(self.grpc.StatusCode.FAILED_PRECONDITION, "not today: 100%")


def story(run, folder):
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    try:
        import grpc  # only here: nothing else needs it
    except ImportError as error:
        raise AssertionError("grpcio is not installed: `make deps-wider` installs it") from error
    echo = Echo(grpc)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((type("Handler", (grpc.GenericRpcHandler,), {"service": lambda _, details: echo.service(details)})(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    gateway = run.Gateway(folder / "grpc", ROUTES.format(port=port, dead=run.free_port()))
    channel = grpc.insecure_channel(f"127.0.0.1:{gateway.port}", options=[("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)])
    try:
        calls(grpc, run, gateway, channel, echo)
        streams_end_with_their_server(grpc, channel, echo, server)
    finally:
        channel.close()
        server.stop(0)
        gateway.stop()


def calls(grpc, run, gateway, channel, echo):
    code = grpc.StatusCode
    token = gateway.cli("token", "mint", "--sub", "alice")
    bearer = (("authorization", f"Bearer {token}"),)

    def unary(path, message=b"hello", timeout=run.PATIENCE, metadata=()):
        return channel.unary_unary(path, same, same).with_call(message, timeout=timeout, metadata=metadata)

    def refused(path, want, **options):
        try:
            answer = unary(path, **options)
        except grpc.RpcError as error:
            assert error.code() == want, (path, error)
            return error
        raise AssertionError(f"{path}: {answer}")

    # One message each way, and metadata.
    answer, call = unary("/closed.Echo/Unary", metadata=(*bearer, ("x-trace-bin", b"\0\1\2")))
    assert answer == b"hello", answer
    assert dict(call.initial_metadata())["x-first"] == "1", call.initial_metadata()
    assert dict(call.trailing_metadata())["x-last-bin"] == b"\0\1", call.trailing_metadata()
    path, seen = echo.seen.get(timeout=run.PATIENCE)
    assert path == "/closed.Echo/Unary" and seen["x-auth-subject"] == "alice" and seen["x-trace-bin"] == b"\0\1\2", seen
    assert "authorization" not in seen, seen

    # Streams, one way and both.
    numbers = list(channel.unary_stream("/open.Echo/Count", same, same)(b"1000", timeout=run.PATIENCE))
    assert numbers == [str(number).encode() for number in range(1000)], numbers[:3]
    parts = [str(number).encode() * 100 for number in range(200)]
    joined = channel.stream_unary("/open.Echo/Join", same, same)(iter(parts), timeout=run.PATIENCE)
    assert joined == b"".join(parts), len(joined)
    saying = queue.Queue()
    chat = channel.stream_stream("/closed.Echo/Chat", same, same)(iter(saying.get, None), timeout=run.PATIENCE, metadata=bearer)
    for number in range(100):
        saying.put(str(number).encode())  # the next one only when this one is back
        assert next(chat) == str(number).encode()
    saying.put(None)
    assert list(chat) == [] and chat.code() == code.OK, chat.code()
    assert echo.ended.get(timeout=run.PATIENCE) == "chat"

    # A deadline is known to the server, and ends the call at both ends.
    refused("/open.Echo/Wait", code.DEADLINE_EXCEEDED, timeout=1)
    left = echo.ended.get(timeout=run.PATIENCE)
    assert 0 < left < 2, left  # what the client says is rounded

    # What the gateway refuses or cannot do, and what the server refuses.
    for path, want, word, options in [
        ("/closed.Echo/Unary", code.UNAUTHENTICATED, "token_missing", {}),
        ("/closed.Echo/Unary", code.UNAUTHENTICATED, "invalid_token", {"metadata": (("authorization", "Bearer x.y.z"),)}),
        ("/scoped.Echo/Unary", code.PERMISSION_DENIED, "insufficient_scope", {"metadata": bearer}),
        ("/nothing.Echo/Unary", code.UNIMPLEMENTED, "no_route", {}),
        ("/open.Echo/../Unary", code.INTERNAL, "path_dot_segment", {}),
        ("/open.Echo/Unary", code.RESOURCE_EXHAUSTED, "body_too_large", {"message": b"a" * 3_000_000}),
        ("/slow.Echo/Wait", code.UNAVAILABLE, "upstream_timeout", {}),
        ("/dead.Echo/Unary", code.UNAVAILABLE, "upstream_failed", {}),
        ("/open.Echo/Refuse", code.FAILED_PRECONDITION, "not today", {}),
    ]:
        error = refused(path, want, **options)
        assert error.details().startswith(word), (path, error.details())
    # Over one connection, all of this: the calls after a refusal are not affected by it.
    assert unary("/open.Echo/Unary")[0] == b"hello"

    # A revocation ends a stream, and the next one is refused.
    saying = queue.Queue()
    chat = channel.stream_stream("/closed.Echo/Chat", same, same)(iter(saying.get, None), timeout=run.PATIENCE, metadata=bearer)
    saying.put(b"here")
    assert next(chat) == b"here"
    gateway.cli("token", "revoke", token)
    try:
        next(chat)
    except grpc.RpcError as error:
        assert error.code() == code.CANCELLED, error
    else:
        raise AssertionError("the stream went on after the revocation")
    saying.put(None)
    # The call that the gateway gave up waiting for has ended at the server, too.
    while (ended := echo.ended.get(timeout=run.PATIENCE)) != "chat":
        assert isinstance(ended, float), ended
    refused("/closed.Echo/Unary", code.UNAUTHENTICATED, metadata=bearer)


def streams_end_with_their_server(grpc, channel, _echo, server):
    saying = queue.Queue()
    chat = channel.stream_stream("/open.Echo/Chat", same, same)(iter(saying.get, None), timeout=60)
    saying.put(b"here")
    assert next(chat) == b"here"
    server.stop(0)
    try:
        next(chat)
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error
    else:
        raise AssertionError("the stream went on without its server")
    saying.put(None)
