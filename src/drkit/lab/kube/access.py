"""Who may reach the cluster: a certificate authority and a server certificate of its own, one token, a kubeconfig.

kubectl sends no token without TLS, so there is TLS; all of it is made anew for each cluster, and ends with it.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import ssl
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from drkit import clock
from drkit.lab import ports

VALID = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM texts."""

    authority: bytes
    server: bytes
    server_key: bytes


def make_certificates() -> Certificates:
    """Return a new authority, and a server certificate of it for loopback."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = clock.wall_utc()
    begin, end = now - timedelta(hours=1), now + VALID
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    authority_key, server_key = keys

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def certificate(name: str, key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(
            issuer_name=named("drkit lab"), subject_name=named(name), public_key=key.public_key(),
            serial_number=x509.random_serial_number(), not_valid_before=begin, not_valid_after=end,
        )  # fmt: skip
        return builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)

    authority = certificate("drkit lab", authority_key, is_authority=True).sign(authority_key, hashes.SHA256())
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(ports.HOST))]
    server = (
        certificate("kube-apiserver", server_key, is_authority=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return Certificates(
        authority.public_bytes(pem),
        server.public_bytes(pem),
        server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def server_context(certificates: Certificates, directory: Path) -> ssl.SSLContext:
    """Return the server's side of TLS. OpenSSL reads files only: they are in a directory that only we may enter."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    path = write_private(directory / "server.pem", certificates.server + certificates.server_key)
    context.load_cert_chain(path)
    return context


def write_kubeconfig(path: Path, *, url: str, token: str, authority: bytes) -> Path:
    """Write a kubeconfig that only we may read (JSON is YAML), and return its path."""
    name = "drkit-lab"
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": url, "certificate-authority-data": _text(authority)}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
    }  # fmt: skip
    return write_private(path, json.dumps(config, indent=1).encode())


def write_private(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.fchmod(descriptor, 0o600)  # of one that was there before
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return path


def _text(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
