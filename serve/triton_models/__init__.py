"""The python models that run inside the Triton server: one file each, and what they share.

They run in the server's own environment (numpy 1.26, no torch, no pydantic) from a copy of the package inside the
repository. `pb_utils` has no attributes while these modules are imported: it is used inside methods only.
"""
