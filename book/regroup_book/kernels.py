"""Kernels that start quickly: each is a fork of one process that has imported the packages of the chapters."""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Any

from jupyter_client.manager import AsyncKernelManager

CONTEXT = multiprocessing.get_context("forkserver")
# On macOS, linear algebra does not survive a fork, so kernels import NumPy themselves.
if sys.platform != "darwin":
    own = [f"regroup_book.{name}" for name in ("plans", "show", "pictures")]
    CONTEXT.set_forkserver_preload(["ipykernel.kernelapp", "myst_nb", "seaborn", *own])
# Packages read this at import, before a notebook could set it.
ENVIRONMENT = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}


class _Kernel(CONTEXT.Process):
    """A forked process with the interface of `subprocess.Popen` that Jupyter's provisioner needs."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        self.join()
        return self.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class ForkedKernelManager(AsyncKernelManager):
    """Start a kernel as a fork of this process, so that nothing is imported again."""

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        kernel = _Kernel(target=_serve, args=(self.connection_file, options.get("cwd") or os.getcwd(), options["env"]))
        kernel.start()
        self.provisioner.process, self.provisioner.pid, self.provisioner.pgid = kernel, kernel.pid, kernel.pid
        self._reconcile_connection_info(self.provisioner.connection_info)


def _serve(connection_file: str, cwd: str, environment: dict[str, str]) -> None:
    """Become a kernel in its own session, so that Ctrl-C reaches only the process that stops the kernels."""
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    # With this variable, a kernel ends when its parent does.
    os.environ.update(environment, JPY_PARENT_PID=str(os.getppid()))
    # Jupyter interrupts a kernel before shutdown, which the kernel would report as an error.
    IPKernelApp.launch_instance(argv=["-f", connection_file, "--log-level=CRITICAL"])
