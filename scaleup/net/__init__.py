"""What every tier needs to know of the network.

addresses ●        endpoints as people write them: `10.0.0.1:80`, `[::1]:80`
proxy_protocol ●   the header that tells a server who its client is, versions 1 and 2
sockets            listening sockets and the socket options that we use, by name
"""
