"""What pyproject.toml can't say yet: the one native module, which may fail to build."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "secgear.base.transport._ring",
            ["secgear/base/transport/_ring.c"],
            depends=[
                f"secgear/base/transport/_ring_{part}.h" for part in ("core", "wait", "memory")
            ],
            define_macros=[("_GNU_SOURCE", "1")],
            extra_compile_args=["-std=c11", "-O2", "-fvisibility=hidden"],
            py_limited_api=True,
            optional=True,  # without a compiler switchless calls take the stream
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
