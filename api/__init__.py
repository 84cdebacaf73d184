"""The client side of etcd's API: HTTP/2, gRPC and HTTP/1.1, without sockets where possible."""
