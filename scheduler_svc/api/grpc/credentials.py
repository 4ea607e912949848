"""Lets the gRPC server show the certificates that are there when a client connects."""

import grpc

from scheduler_svc.security.tls import Certificates, TlsContent


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Returns credentials that follow the files."""
    given = certificates.current
    asks_for_certificates = given.client_ca is not None

    def changed() -> "grpc.ServerCertificateConfiguration | None":
        """Is called, from some thread of the library, for each client that connects; None: as before."""
        nonlocal given
        current = certificates.current
        if current is given:
            return None
        given = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        changed,  # type: ignore[arg-type]  # the stubs know nothing of None
        asks_for_certificates,
    )


def _configuration(content: TlsContent) -> "grpc.ServerCertificateConfiguration":
    return grpc.ssl_server_certificate_configuration([(content.key, content.cert)], content.client_ca)
