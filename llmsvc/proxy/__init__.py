"""The process inside auth-proxy.service: one concept a file, in the order in which a request passes them."""
