"""What the package is and needs.  Each floor was tried: `script/test --floors` runs the tests on exactly those."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

[VERSION] = re.findall(r'^__version__ = "(.+)"$', (HERE / "amphora" / "__init__.py").read_text("utf-8"), re.MULTILINE)

setup(
    name="amphora-agent",
    version=VERSION,
    description="An agent for OpenStack load-balancer VMs (amphorae): a REST API over mutual TLS, haproxy, heartbeats",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: No Input/Output (Daemon)",
        "Environment :: OpenStack",
        "Framework :: Twisted",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: System :: Networking",
        "Typing :: Typed",
    ],
    # Stated, so that an editable install puts this folder on the path: twistd finds its plugins there.
    package_dir={"": "."},
    # twisted.plugins is Twisted's own package: ours only adds a file to its folder.
    packages=[*find_packages(include=["amphora", "amphora.*"]), "twisted.plugins"],
    package_data={"amphora": ["py.typed"], "amphora.lvs": ["scripts/*.sh"], "amphora.vrrp": ["scripts/*.sh"]},
    entry_points={
        "console_scripts": [
            "amphora-agent = amphora.command:main",
            "amphora-health-checker = amphora.health_checker:main",
        ]
    },
    zip_safe=False,
    python_requires=">=3.11",
    install_requires=[
        "attrs >= 24.2.0",  # plain data: settings, samples, messages
        "automat >= 24.8.1",  # the topology's states, as a table
        "cryptography >= 43.0.3",  # reads certificates and keys, and checks that they belong together
        "klein >= 24.8.0",  # the routes of the REST API
        "psutil >= 6.1.0",  # what `GET details` tells of the machine
        "pyopenssl >= 24.3.0",  # TLS for Twisted: client certificates are judged in its verify callback
        "pyroute2 >= 0.9.2",  # links, addresses, routes and rules, through netlink
        "service_identity >= 24.2.0",  # the client checks that a certificate names the amphora that it calls
        "treq >= 24.9.1",  # the client's HTTP
        "twisted[tls] >= 25.5.0",  # the reactor, services, HTTP, processes
        "zope.interface >= 7.1.0",  # interfaces of roles that have several implementations
    ],
    extras_require={
        "test": [
            # The tools are pinned: the same code gives the same verdict everywhere.
            "mypy == 2.4.1",
            "mypy-zope == 1.0.17",
            "ruff == 0.17.6",
            "hypothesis >= 6.112",
            "setuptools >= 77",  # a test builds the wheel
            "types-psutil == 7.2.2.20261111",
            "types-setuptools == 84.2.0.20261104",
        ],
        "demo": [
            "rich >= 13.9",  # the live table of script/demo
        ],
    },
)
