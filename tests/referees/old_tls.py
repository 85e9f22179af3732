"""A server that speaks TLS 1.1 and nothing newer, and a client to show that it does: OpenSSL, because rustls knows no such thing.

`old_tls.py CERTIFICATE KEY` prints the port, then a line for each connection, and ends with its standard input.
`old_tls.py --client PORT` prints the version that was agreed on.
"""

import os
import socket
import ssl
import sys
import threading


def old(purpose):
    context = ssl.SSLContext(purpose)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def serve(certificate, key):
    context = old(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    while True:
        connection, _ = listener.accept()
        try:
            with context.wrap_socket(connection, server_side=True) as tls:
                print("heard", tls.version(), tls.recv(4096), flush=True)
        except (ssl.SSLError, OSError) as error:
            print("refused", error, flush=True)


def ask(port):
    context = old(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as tls:
        print(tls.version())
        tls.sendall(b"hello")


if sys.argv[1] == "--client":
    ask(int(sys.argv[2]))
else:
    serve(*sys.argv[1:3])
