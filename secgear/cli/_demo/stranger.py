"""A program that nobody has asked for: by the same maker, for the same owners, and genuine."""

import pkgutil

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secgear import App, Session

CERTIFICATES = x509.load_pem_x509_certificates(pkgutil.get_data(__name__, "owners.pem") or b"")

app = App("suggestion-box", version="1.0", svn=7)
app.sessions.configure(authorities=tuple(one.public_bytes(Encoding.PEM) for one in CERTIFICATES))


@app.session
def keep(session: Session) -> None:
    """Take whatever it is told."""
    for _ in session:
        pass
