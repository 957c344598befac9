"""A certificate authority of the tests, and what it signs and does not sign."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


class Authority:
    """Signs certificates, and keeps them in files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("Authority of the tests")
        self._count = 0
        self.file = directory / "authority.pem"
        certificate = self._sign(self._name, self._key, timedelta(0), x509.BasicConstraints(ca=True, path_length=0))
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, *names: str, age: timedelta = timedelta(0), is_signed: bool = True) -> ssl.SSLContext:
        """Return what a server of these names and addresses needs; a certificate is good for a day."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file_of(*names, age=age, is_signed=is_signed))
        return context

    def file_of(self, *names: str, age: timedelta = timedelta(0), is_signed: bool = True) -> Path:
        """Return a file with the key and the certificate of a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        more = (x509.SubjectAlternativeName([_alternative(name) for name in names]),)
        signer = None if is_signed else key
        certificate = self._sign(_name(names[0]), key, age, *more, signer=signer)
        self._count += 1
        file = self._directory / f"{self._count}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        return file

    def _sign(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        age: timedelta,
        *extensions: x509.ExtensionType,
        signer: ec.EllipticCurvePrivateKey | None = None,
    ) -> x509.Certificate:
        begins_at = datetime.now(UTC) - age - timedelta(hours=1)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name if signer else self._name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(begins_at).not_valid_after(begins_at + _DAY)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key((signer or self._key).public_key())
        for extension in (identifier, issuer):
            builder = builder.add_extension(extension, critical=False)
        for more in extensions:
            builder = builder.add_extension(more, critical=isinstance(more, x509.BasicConstraints))
        return builder.sign(signer or self._key, hashes.SHA256())


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
