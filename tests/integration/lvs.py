"""UDP and SCTP listeners for tests: their configurations, and a keepalived that takes this kernel's word for IPVS."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from attrs import field, frozen

from amphora.lvs.store import LvsProgram
from tests.integration.harness import new_id
from tests.integration.pair import run

KEEPALIVED = "/usr/sbin/keepalived"
EVERYTHING_FOR_LVS = ("root", "keepalived", "ip", "gcc")
VIP = "192.0.2.100"
MEMBER = "192.0.2.10"


@frozen
class LvsText:
    """A configuration as Octavia lays it out."""

    listener_id: str = field(factory=new_id)
    load_balancer_id: str = field(factory=new_id)
    pool_id: str = field(factory=new_id)
    vips: tuple[str, ...] = (VIP,)
    port: int = 5353
    members: tuple[str, ...] = (MEMBER,)
    check: str = ""
    """The program that checks members, which is given each one's address and port."""
    disabled: bool = False
    namespace: str = "amphora-haproxy"
    protocol: str = "UDP"

    def text(self) -> bytes:
        listener = "Listener {} is disabled" if self.disabled else "Configuration for Listener {}"
        lines = [
            f"# Configuration for Loadbalancer {self.load_balancer_id}",
            f"# {listener.format(self.listener_id)}",
            "",
            f"net_namespace {self.namespace}",
            "",
        ]
        if not self.disabled:
            lines += self._server()
        return "\n".join([*lines, ""]).encode()

    def _server(self) -> list[str]:
        return [
            "virtual_server_group ipv4-group {",
            *(f"    {vip} {self.port}" for vip in self.vips),
            "}",
            "",
            "virtual_server group ipv4-group {",
            "    lb_algo wrr",
            "    lb_kind NAT",
            f"    protocol {self.protocol}",
            "    delay_loop 1",
            "    delay_before_retry 1",
            "    retry 1",
            "",
            f"    # Configuration for Pool {self.pool_id}",
            *(line for member in self.members for line in self._member(member)),
            "}",
        ]

    def _member(self, address: str) -> list[str]:
        return [
            f"    # Configuration for Member {uuid.uuid5(uuid.NAMESPACE_OID, self.listener_id + address)}",
            f"    real_server {address} {self.port} {{",
            "        weight 1",
            *(
                [
                    "        MISC_CHECK {",
                    f'            misc_path "{self.check} {address} {self.port}"',
                    "            misc_timeout 4",
                    "        }",
                ]
                if self.check
                else []
            ),
            "    }",
        ]


def with_fake_ipvs(directory: Path, namespace: str, more_path: str = "") -> LvsProgram:
    """
    A keepalived that believes to balance; the stand-in for the kernel's part is built for it.  Blocks.

    @param more_path: Where it looks for programs beside the usual.
    """
    library = fake_ipvs(directory)
    path = f"{LvsProgram.environment['PATH']}:{more_path}"

    class WithFakeIpvs(LvsProgram):
        environment: ClassVar[Mapping[str, str]] = {"PATH": path, "LD_PRELOAD": str(library)}

    return WithFakeIpvs(KEEPALIVED, namespace, facility=None)


def keepalived_with_fake_ipvs(directory: Path) -> Path:
    """The same for an agent that is a process of its own: a script to be put in keepalived's place.  Blocks."""
    library = fake_ipvs(directory)
    real = shutil.copy(KEEPALIVED, directory / "keepalived.real")
    script = directory / "keepalived"
    script.write_text(f'#!/bin/bash\nLD_PRELOAD={library} exec -a "$0" {real} "$@"\n')
    script.chmod(0o755)
    return script


def fake_ipvs(directory: Path) -> Path:
    """The library that takes this kernel's place, built there.  Blocks."""
    library = directory / "fake_ipvs.so"
    if not library.exists():
        run("gcc", "-shared", "-fPIC", "-o", str(library), str(Path(__file__).with_name("fake_ipvs.c")), "-ldl")
    return library


def start_plainly(program: LvsProgram, main: Path, log: Path) -> subprocess.Popen[bytes]:
    """keepalived without an agent, with this file; its pid files are `plain…` beside it."""
    pid_files = ["-p", str(main.parent / "plain.pid"), "-c", str(main.parent / "plain.check.pid")]
    command = [KEEPALIVED, "--check", "--dont-fork", "--log-console", "--no-syslog", "-f", str(main), *pid_files]
    with log.open("ab") as output:
        return subprocess.Popen(
            ["ip", "netns", "exec", program.namespace, *command],
            stdout=output,
            stderr=output,
            env=dict(program.environment),
        )
