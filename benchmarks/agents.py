"""Both agents: how each is started, and the configuration file that both are given."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from amphora.testing.pki import ThrowAwayPKI
from benchmarks.receiver import KEY

ROOT = Path(__file__).resolve().parent.parent
AMPHORA_ID = "3dd1f8e2-7f6c-4d0e-9a3c-4f4c1c6b2a11"
PORT = 9443


@frozen
class Agent:
    """An agent that is measured: the program, and the Python that runs it."""

    name: str
    python: Path

    @property
    def program(self) -> Path:
        """What an amphora's unit starts."""
        return self.python.with_name("amphora-agent")

    @property
    def vrrp_check(self) -> str:
        """The script that keepalived runs, as the agent has installed it."""
        return "/var/lib/octavia/vrrp/check_script.sh"


OURS = Agent("ours", Path(sys.executable))
REFERENCE = Agent("reference", ROOT / ".venv-reference" / "bin" / "python")
BOTH = (OURS, REFERENCE)


@frozen
class Setup:
    """What a configuration says that is not the same in all figures; times in seconds."""

    interval: int = 10
    topology: str = "SINGLE"
    poll: float = 1.0
    """Only ours knows of changes, and reads it."""


def configuration(setup: Setup, pki: ThrowAwayPKI, controller: int, directory: Path) -> str:
    """The file, in the words of the template that Octavia 19 fills."""
    sections: Mapping[str, Mapping[str, object]] = {
        "DEFAULT": {"debug": False, "use_syslog": False},
        "haproxy_amphora": {
            "base_path": "/var/lib/octavia",
            "base_cert_dir": "/var/lib/octavia/certs",
            "bind_host": "127.0.0.1",
            "bind_port": PORT,
            "haproxy_cmd": "/usr/sbin/haproxy",
        },
        "health_manager": {
            "controller_ip_port_list": f"127.0.0.1:{controller}",
            "heartbeat_interval": setup.interval,
            "heartbeat_key": KEY,
        },
        "amphora_agent": {
            "agent_server_ca": pki.ca,
            "agent_server_cert": pki.server,
            "agent_server_network_dir": directory / "interfaces",
            "agent_request_read_timeout": 180,
            "amphora_id": AMPHORA_ID,
            "amphora_udp_driver": "keepalived_lvs",
            "agent_tls_protocol": "TLSv1.2",
            "change_poll_interval": setup.poll,
        },
        "controller_worker": {"loadbalancer_topology": setup.topology},
    }
    return "\n".join(
        f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in options.items())
        for section, options in sections.items()
    )
