"""What every tier needs to know of the network.

addresses ●   endpoints as people write them: `10.0.0.1:80`, `[::1]:80`
sockets       listening sockets and the socket options that we use, by name
"""
