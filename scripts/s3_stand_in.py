"""A small simulated S3 in memory that stalls and resets connections on demand.

Supports what the server asks of S3: objects, ranges, lists, copies, multipart
uploads and bulk deletion. Does not check signatures.

    with StandIn() as s3:
        s3.url, s3.environment      # for the server
        s3.faults = 0.3             # share of requests that fail from now on
"""

import hashlib
import random
import re
import socket
import struct
import threading
import time
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class StandIn:
    def __init__(self, seed=1):
        self.objects, self.uploads, self.lock = {}, {}, threading.Lock()
        self.faults, self.stalled, self.resets = 0.0, 0, 0
        # Requests with a presigned URL, as (key, headers), and whether they are refused.
        self.presigned, self.refuse_presigned = [], False
        self.draw = random.Random(seed)
        stand_in = self

        class Handler(_Handler):
            s3 = stand_in

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.environment = {
            "AWS_ENDPOINT": self.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def fault(self):
        """Stalls, or resets the connection, before or after the request is processed."""
        with self.s3.lock:
            is_due = self.s3.draw.random() < self.s3.faults
            kind = self.s3.draw.choice(["stall", "reset"])
        if not is_due:
            return False
        if kind == "stall":
            self.s3.stalled += 1
            time.sleep(1.5)
            return False
        self.s3.resets += 1
        # Without lingering, so that the other side gets a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
        return True

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("length", len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in (self.headers.get("Content-Encoding") or ""):
            return data
        out = b""
        while data:
            head, data = data.split(b"\r\n", 1)
            size = int(head.split(b";")[0], 16)
            if not size:
                break
            out, data = out + data[:size], data[size + 2:]
        return out

    def handle_request(self):
        try:
            address = urllib.parse.urlsplit(self.path)
            query = urllib.parse.parse_qs(address.query, keep_blank_values=True)
            _, _, key = urllib.parse.unquote(address.path).lstrip("/").partition("/")
            body = self.body()
            if self.fault():
                return
            if "X-Amz-Signature" in query:
                self.s3.presigned.append((key, dict(self.headers)))
                if self.s3.refuse_presigned:
                    return self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            self.work(key, query, body)
        except OSError:
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_request

    def work(self, key, query, body):
        objects, uploads, lock = self.s3.objects, self.s3.uploads, self.s3.lock
        etag = lambda data: '"' + hashlib.md5(data).hexdigest() + '"'
        missing = b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>"
        if self.command == "PUT" and "partNumber" in query:
            with lock:
                parts = uploads.get(query["uploadId"][0])
                if parts is not None:
                    parts[int(query["partNumber"][0])] = body
            self.answer(404 if parts is None else 200, ETag=etag(body))
        elif self.command == "PUT" and self.headers.get("x-amz-copy-source"):
            source = urllib.parse.unquote(self.headers["x-amz-copy-source"]).lstrip("/").partition("/")[2]
            with lock:
                data = objects.get(source)
                if data is not None:
                    objects[key] = data
            if data is None:
                self.answer(404, missing)
            else:
                self.answer(200, f"<CopyObjectResult><ETag>{etag(data)}</ETag></CopyObjectResult>".encode())
        elif self.command == "PUT":
            with lock:
                objects[key] = body
            self.answer(200, ETag=etag(body))
        elif self.command == "POST" and "uploads" in query:
            name = uuid.uuid4().hex
            with lock:
                uploads[name] = {}
            self.answer(200, (f"<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>{key}</Key>"
                              f"<UploadId>{name}</UploadId></InitiateMultipartUploadResult>").encode())
        elif self.command == "POST" and "uploadId" in query:
            wanted = [int(n) for n in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
            with lock:
                # S3 gives a repeated completion the same answer as the first one.
                parts = uploads.get(query["uploadId"][0])
                if parts is not None:
                    objects[key] = b"".join(parts[n] for n in wanted)
            if parts is None:
                self.answer(404, b"<Error><Code>NoSuchUpload</Code><Message>none</Message></Error>")
            else:
                self.answer(200, (f"<CompleteMultipartUploadResult><Location>l</Location><Bucket>b</Bucket><Key>{key}</Key>"
                                  f"<ETag>{etag(objects[key])}</ETag></CompleteMultipartUploadResult>").encode())
        elif self.command == "POST" and "delete" in query:
            keys = re.findall(rb"<Key>(.*?)</Key>", body)
            with lock:
                for name in keys:
                    objects.pop(name.decode(), None)
            gone = "".join(f"<Deleted><Key>{name.decode()}</Key></Deleted>" for name in keys)
            self.answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())
        elif self.command == "DELETE":
            with lock:
                if "uploadId" in query:
                    uploads.pop(query["uploadId"][0], None)
                else:
                    objects.pop(key, None)
            self.answer(204)
        elif self.command == "GET" and ("list-type" in query or not key):
            prefix = query.get("prefix", [""])[0]
            with lock:
                found = sorted((k, len(v), etag(v)) for k, v in objects.items() if k.startswith(prefix))
            rows = "".join(f"<Contents><Key>{k}</Key><Size>{size}</Size><ETag>{tag}</ETag>"
                           f"<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>" for k, size, tag in found)
            self.answer(200, (f"<ListBucketResult><Name>b</Name><Prefix>{prefix}</Prefix><KeyCount>{len(found)}</KeyCount>"
                              f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>").encode())
        else:
            with lock:
                data = objects.get(key)
            if data is None:
                return self.answer(404, missing)
            headers = {"ETag": etag(data), "Last_Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
            ranged = re.match(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
            if self.command == "HEAD":
                self.answer(200, b"", length=len(data), **headers)
            elif ranged:
                first = int(ranged[1]) if ranged[1] else len(data) - int(ranged[2])
                last = min(int(ranged[2]), len(data) - 1) if ranged[1] and ranged[2] else len(data) - 1
                self.answer(206, data[first:last + 1], Content_Range=f"bytes {first}-{last}/{len(data)}", **headers)
            else:
                self.answer(200, data, **headers)
