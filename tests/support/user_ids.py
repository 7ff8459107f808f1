"""User ids as identity providers assign them, and any others."""

from __future__ import annotations

from hypothesis import strategies as st

#: Ids of common identity providers, and ids with the separators of URLs, room names, Redis keys and markup.
USER_IDS = [
    "auth0|5f7c1",
    "google-oauth2|1",
    "ann@example.com",
    "us-east-1:7a3c11e0-0e54-4a51-8cf9-3a1e2f5f1e1a",
    "urn:x:y",
    "https://idp.example/users/42?x=1#me",
    "Ünï",
    "U\u0308ni",
    "CORP\\ann",
    "a/b",
    "../../etc",
    "a%2Fb",
    "100%",
    "a{b}c",
    "}",
    "*?[a]",
    '"><script>',
    "אבג",
    "\u202eevil",
    "😀",
    "line\u2028separator",
    " ",
    " ann ",
    "a  b",
    "a+b&c=d;e,f",
    "~.-_!'()*",
    "x" * 255,
    "😀" * 255,
]

_CHARACTERS = st.characters(exclude_categories=["Cc", "Cs"])
#: Any user id, most of them with characters that have a meaning somewhere.
user_ids = (
    st.sampled_from(USER_IDS)
    | st.text(
        st.sampled_from("aA1/%2F?#|@\\:{}[]*. ~'\"<>&;=+,$!()`^-_é\u0301א\u202e\u200f😀"), min_size=1, max_size=12
    )
    | st.text(_CHARACTERS, min_size=1, max_size=255)
).filter(lambda text: text not in (".", ".."))
