"""Tokens are accepted when everything about them is right, and by no other key's signature."""

from __future__ import annotations

import base64
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from workers.access.identity import AccessError
from workers.access.tokens import LEEWAY, KeySetError, TokenVerifier

NOW = 1_800_000_000.0

KEYS = {
    "RS256": (rsa.generate_private_key(65_537, 2_048), RSAAlgorithm),
    "ES256": (ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm),
}
CLAIMS = {"sub": "ana", "aud": "surtitle", "exp": NOW + 60, "scope": "speak watch:abc", "iss": "us"}


def jwk(kid, algorithm="EdDSA", key=None):
    private, kind = KEYS[algorithm]
    public = (key or private).public_key()
    return {**kind.to_jwk(public, as_dict=True), "kid": kid, "alg": algorithm}


def write(path, *keys):
    path.write_text(json.dumps({"keys": keys}))


def sign(kid="now", algorithm="EdDSA", key=None, **claims):
    claims = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode(claims, key or KEYS[algorithm][0], algorithm=algorithm, headers={"kid": kid})


@pytest.fixture(name="path")
def _path(tmp_path):
    path = tmp_path / "jwks.json"
    write(path, jwk("now"))
    return path


def verifier(path, **options):
    return TokenVerifier(path, **{"audience": "surtitle", "clock": lambda: NOW, **options})


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_good_token_tells_who_it_is(path, algorithm):
    write(path, jwk("now", algorithm))

    identity = verifier(path, issuer="us").identify(sign(algorithm=algorithm))

    assert (identity.tenant, identity.name) == ("ana", "subject ana")
    assert identity.scopes == {"speak", "watch:abc"}
    assert identity.expires == NOW + 60 + LEEWAY
    assert verifier(path).identify(sign(algorithm=algorithm, tenant="hall")).tenant == "hall"


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW - LEEWAY - 1},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": NOW + LEEWAY + 1},
        {"aud": "others"},
        {"aud": None},
        {"iss": "them"},
        {"iss": None},
        {"sub": None},
        {"scope": ["speak"]},
        {"tenant": ""},
        {"tenant": 7},
    ],
)
def test_a_token_that_is_not_for_us_or_now_is_refused(path, claims):
    with pytest.raises(AccessError) as refusal:
        verifier(path, issuer="us").identify(sign(**claims))

    assert refusal.value.status == 401


def test_only_keys_of_the_file_count(path):
    stranger = ed25519.Ed25519PrivateKey.generate()
    public = base64.b64encode(path.read_bytes())
    none = jwt.encode(CLAIMS, None, algorithm="none", headers={"kid": "now"})
    confused = jwt.encode(CLAIMS, public, algorithm="HS256", headers={"kid": "now"})

    for token in (sign(key=stranger), sign(kid="other"), none, confused, "", "a.b.c", "x" * 99):
        with pytest.raises(AccessError) as refusal:
            verifier(path).identify(token)
        assert refusal.value.status == 401
        assert not token or token not in str(refusal.value)


def test_keys_are_rotated_without_a_restart(path):
    new = ed25519.Ed25519PrivateKey.generate()
    verify = verifier(path).identify
    write(path, jwk("now"), jwk("next", key=new))

    assert verify(sign()) == verify(sign(kid="next", key=new))

    write(path, jwk("next", key=new))
    verify(sign(kid="next", key=new))
    with pytest.raises(AccessError):
        verify(sign())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"keys": []}', '{"keys": [{"kty": "RSA"}]}'])
def test_what_is_no_jwks_is_said_so(path, text):
    path.write_text(text)

    with pytest.raises(KeySetError, match="not a JWKS"):
        verifier(path)
