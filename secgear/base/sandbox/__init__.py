"""The isolation layers of the process TEE, by the kernel's own means and nothing else.

`seal` puts them in place, in two steps around the app's imports; `probe` tells what would hold.
"""

from __future__ import annotations

LAYERS: dict[str, str] = {
    "not_dumpable": "no other process of this user may trace it or read its memory",
    "dies_with_host": "the kernel kills it when the host dies",
    "no_new_privs": "nothing it could execute would gain rights",
    "capabilities": "it holds no capability, not even when the host is root",
    "namespaces": "no network, no System V IPC of its own machine",
    "landlock": "it reads libraries and nothing else, and writes nowhere",
    "seccomp": "system calls outside a short list are refused, for every thread",
    "w_xor_x": "no memory is ever both writable and executable, or becomes executable",
    "rlimits": "bounded memory and descriptors, no core dumps",
    "closed_descriptors": "it inherits its stream and its shared memory, nothing else",
    "secret_memory": "keys lie in pages that the kernel itself does not map",
}
"""Every layer by its stable name, and what it means when it holds."""
