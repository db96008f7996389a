"""Launches the word counter and calls it in three ways. This file is the untrusted side."""

from __future__ import annotations

import asyncio
from pathlib import Path

import secgear

APP = Path(__file__).with_name("wordcount.py")
TEXT = "the quick brown fox\njumps over\nthe lazy dog"


def show_progress(done: float) -> None:
    print(f"  {done:4.0%} counted")


def main() -> None:
    with secgear.launch(APP, tee="auto", ocalls={"progress": show_progress}) as enclave:
        print(f"{enclave.image.manifest.name} runs in the {enclave.tee} TEE")

        print("an ECALL:", enclave.count(TEXT))

        future = enclave.submit.count("a b a")
        print("a future:", future.result())

        async def count() -> dict[str, int]:
            result: dict[str, int] = await enclave.aio.count("c d c")
            return result

        print("awaited:", asyncio.run(count()))

        try:
            enclave.count("   ")
        except enclave.errors.NothingToCount as error:
            print("a declared error:", error)


if __name__ == "__main__":
    main()
