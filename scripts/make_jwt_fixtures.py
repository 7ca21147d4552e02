#!/usr/bin/env python3
"""Generates `crates/server/src/oidc/fixtures/signed.json`: a key and a signed token for
every signature algorithm that sign-in providers use. Needs `pip install pyjwt[crypto]`."""

import json
import pathlib

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

TARGET = pathlib.Path(__file__).parent.parent / "crates/server/src/oidc/fixtures/signed.json"


def main() -> None:
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    keys = {
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "ES384": ec.generate_private_key(ec.SECP384R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    cases = []
    for name in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]:
        key = keys.get(name, rsa_key)
        algorithm = jwt.get_algorithm_by_name(name)
        public = json.loads(algorithm.to_jwk(key.public_key()))
        public.pop("key_ops", None)
        token = jwt.encode({"sub": "ada"}, key, algorithm=name)
        cases.append({"alg": name, "key": public, "jwt": token})
    TARGET.write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
