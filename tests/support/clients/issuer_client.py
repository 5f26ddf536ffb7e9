"""Verifies tokens of the stand-in's issuers with PyJWT, as a service that trusts an issuer does.

Usage: issuer_client.py READY, where READY is the line of JSON that the stand-in prints.
Prints one line for each check and ends with an error at the first that fails.
"""

import json
import sys

import jwt
import requests

READY = json.loads(sys.argv[1])


def check(name, condition):
    if not condition:
        sys.exit(f"not ok: {name}")
    print(f"ok: {name}")


def control(issuer, action, body):
    response = requests.post(f"{READY['issuers']}/stand-in/issuers/{issuer}/{action}", json=body, timeout=10)
    return response.json() if response.content else None


def mint(issuer, **body):
    return control(issuer, "mint", body)["token"]


def verify(issuer, token, audience="oci-secrets"):
    """The claims of a token, by the issuer's documents as they are now."""
    url = f"{READY['issuers']}/{issuer}"
    document = requests.get(f"{url}/.well-known/openid-configuration", timeout=10).json()
    key = jwt.PyJWKClient(document["jwks_uri"]).get_signing_key_from_jwt(token)
    algorithms = document["id_token_signing_alg_values_supported"]
    return jwt.decode(token, key, algorithms=algorithms, audience=audience, issuer=url)


def refused(name, error, issuer, token):
    try:
        verify(issuer, token)
    except error:
        check(name, True)
    else:
        check(name, False)


def issues_tokens():
    claims = verify("github", mint("github"))
    check("of GitHub", claims["repository"] == "acme/app" and claims["exp"] - claims["iat"] == 300)
    check("of GitLab", verify("gitlab", mint("gitlab"))["ref_protected"] == "true")
    namespace = verify("kubernetes", mint("kubernetes"))["kubernetes.io"]["namespace"]
    check("of Kubernetes", namespace == "agents")
    for issuer in ("es256", "eddsa"):
        check(f"by {issuer}", verify(issuer, mint(issuer))["sub"] == "job")
    claims = verify("github", mint("github", claims={"ref": "refs/heads/x", "actor": None}))
    check("with other claims", claims["ref"] == "refs/heads/x" and "actor" not in claims)


def answers_a_runner():
    url = f"{READY['issuers']}/github/request?api-version=2.0"
    header = {"Authorization": f"Bearer {READY['id_token_request_token']}"}
    value = requests.get(f"{url}&audience=https%3A%2F%2Fa.example", headers=header, timeout=10).json()["value"]
    check("a token on request", verify("github", value, "https://a.example")["ref"] == "refs/heads/main")
    check("not without the request token", requests.get(url, timeout=10).status_code == 401)


def rotates():
    old = mint("github-rotates")
    control("github-rotates", "rotate", {})
    new = mint("github-rotates")
    kids = {jwt.get_unverified_header(token)["kid"] for token in (old, new)}
    check("a new key", len(kids) == 2 and verify("github-rotates", new) and verify("github-rotates", old))
    check("the old key signs on request", jwt.get_unverified_header(mint("github-rotates", retired=True))["kid"] in kids)
    control("github-rotates", "rotate", {"keep": False})
    refused("the old keys are gone", jwt.PyJWKClientError, "github-rotates", old)


def issues_bad_tokens():
    refused("signed with the key of another issuer", jwt.InvalidSignatureError, "github",
            mint("github", by="github-other", header={"kid": "github-key-1"}))
    refused("unsigned", jwt.InvalidAlgorithmError, "github", mint("github", algorithm="none"))
    refused("confused", jwt.InvalidAlgorithmError, "github", mint("github", algorithm="HS256"))
    refused("expired", jwt.ExpiredSignatureError, "github", mint("github", claims={"exp": 1}))


def breaks():
    url = f"{READY['issuers']}/github-breaks/.well-known"
    control("github-breaks", "fault", {"discovery": "status-503", "jwks": "slow-10"})
    check("discovery is down", requests.get(f"{url}/openid-configuration", timeout=10).status_code == 503)
    check("keys are slow", requests.get(f"{url}/jwks", timeout=10).elapsed.total_seconds() >= 0.01)
    control("github-breaks", "fault", {"discovery": None})
    control("github-breaks", "discovery", {"jwks_uri": "https://evil.example/keys"})
    document = requests.get(f"{url}/openid-configuration", timeout=10).json()
    check("the document can be changed", document["jwks_uri"] == "https://evil.example/keys")
    control("github-breaks", "jwks", {"keys": []})
    check("the keys can be swapped", requests.get(f"{url}/jwks", timeout=10).json() == {"keys": []})


if __name__ == "__main__":
    for part in (issues_tokens, answers_a_runner, rotates, issues_bad_tokens, breaks):
        part()
