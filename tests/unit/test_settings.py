"""Settings: what the environment may say, and the sentence when it may not."""

import dataclasses
import itertools
import re

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from roomcast.errors import SettingsError
from roomcast.settings import Settings, describe

SECRET = "correct horse battery staple, twice over"


def public(key) -> str:
    """The public half of ``key`` as PEM text."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture(scope="module")
def rsa_key():
    """A private RSA key."""
    return rsa.generate_private_key(65537, 2048)


def read(**environ: str) -> Settings:
    """Settings from an environment that holds a good secret and ``environ``."""
    return Settings.from_env({"JWT_SECRET": SECRET, **environ})


def refusal(**environ: str) -> str:
    """The sentence that stops the start: one line, ended by a full stop."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environ)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_a_secret_is_enough():
    """Everything but the key has a default, in code as from the environment."""
    assert Settings(jwt_secret=SECRET) == read()
    assert read().jwt_algorithms == ("HS256",)


def test_the_environment_is_read_as_its_types():
    """Numbers, truths, words and lists come out as what they are; words in lower case."""
    settings = read(
        MAX_CONNECTIONS_PER_USER="7",
        WS_HEARTBEAT_INTERVAL="0.5",
        CONSOLE="1",
        JWT_REQUIRE_EXP="no",
        LOG_LEVEL="WARNING",
        ROOM_ACCESS=" open ",
        JWT_ALGORITHMS="HS256",
    )
    assert (settings.max_connections_per_user, settings.ws_heartbeat_interval) == (7, 0.5)
    assert (settings.console, settings.jwt_require_exp) == (True, False)
    assert (settings.log_level, settings.room_access) == ("warning", "open")


def test_the_process_environment_is_the_default(monkeypatch):
    """Without a mapping the variables of the process are read."""
    monkeypatch.setenv("JWT_SECRET", SECRET)
    monkeypatch.setenv("HISTORY_SIZE", "12")
    assert Settings.from_env().history_size == 12


def test_a_given_mapping_is_all_there_is(monkeypatch):
    """With a mapping the variables of the process are not looked at."""
    monkeypatch.setenv("HISTORY_SIZE", "12")
    assert read().history_size == 500


def test_overrides_win():
    """A field given in the call wins over its variable, which is then not even read."""
    settings = Settings.from_env({"JWT_SECRET": "short", "HISTORY_SIZE": "x"}, jwt_secret=SECRET, history_size=9)
    assert (settings.jwt_secret, settings.history_size) == (SECRET, 9)


@pytest.mark.parametrize("name", [variable.name for variable in describe()])
def test_an_empty_variable_is_not_set(name):
    """An empty variable, as container files leave them, means the default."""
    assert Settings.from_env({name: " "}, jwt_secret=SECRET) == read()


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("MAX_CONNECTIONS_PER_USER", "five", "a whole number of at least 1"),
        ("MAX_CONNECTIONS_PER_USER", "0", "a whole number of at least 1"),
        ("MAX_ROOMS_PER_CONNECTION", "2.5", "a whole number of at least 1"),
        ("WS_MESSAGE_RATE", "-1", "a whole number of at least 0"),
        ("WS_HEARTBEAT_INTERVAL", "0", "a number above 0"),
        ("WS_HEARTBEAT_INTERVAL", "nan", "a number above 0"),
        ("HISTORY_TTL", "inf", "a number above 0"),
        ("JWT_LEEWAY", "-0.1", "a number of at least 0"),
        ("CONSOLE", "ja", "true or false"),
        ("FORBIDDEN_JOIN", "perhaps", "close or keep"),
        ("LOG_FORMAT", "xml", "text or json"),
        ("LOG_LEVEL", "loud", "debug or info or warning or error"),
    ],
)
def test_a_bad_value_stops_the_start(name, value, wanted):
    """The sentence names the variable, what was given, and what is wanted."""
    sentence = refusal(JWT_SECRET=SECRET, **{name: value})
    assert re.fullmatch(rf"{name} is '?{re.escape(value)}(\.0)?'?; it must be {wanted}\.", sentence)


def test_a_long_value_is_cut_short():
    """A number that no computer wants is refused, and not repeated in full."""
    assert "999…" in refusal(JWT_SECRET=SECRET, HISTORY_SIZE="9" * 5000)


def test_values_given_in_code_are_checked_too():
    """Bounds hold for a Settings made without the environment, NaN included."""
    with pytest.raises(SettingsError, match="WS_HEARTBEAT_INTERVAL is nan"):
        Settings(jwt_secret=SECRET, ws_heartbeat_interval=float("nan"))


def test_a_redis_url_is_not_shown():
    """It may hold a password."""
    settings = read(JWT_SECRET=SECRET, REDIS_URL="redis://:pa55@cache:6379/0")
    assert settings.redis_url == "redis://:pa55@cache:6379/0"
    assert "pa55" not in repr(settings)


@pytest.mark.parametrize("prefix", ["a b", "{room}", "app:*", "a?", "[a]", "a\\b", "\t", "caf\u00e9", "x" * 65])
def test_a_prefix_that_would_mean_other_keys_is_refused(prefix):
    """Braces, globs, spaces and what is not ASCII have no place in the names of keys."""
    assert "REDIS_PREFIX is " in refusal(JWT_SECRET=SECRET, REDIS_PREFIX=f"x{prefix}x")
    assert read(JWT_SECRET=SECRET, REDIS_PREFIX="shop:eu-1/live").redis_prefix == "shop:eu-1/live"


def test_a_buffer_that_takes_no_whole_message_is_refused():
    """Each recipient of the longest message would be closed; the sentence names both settings."""
    sentence = refusal(JWT_SECRET=SECRET, WS_MAX_BUFFER="1000", WS_MAX_MESSAGE_SIZE="1001")
    assert "WS_MAX_BUFFER is 1000" in sentence
    assert "WS_MAX_MESSAGE_SIZE, which is 1001" in sentence
    assert read(JWT_SECRET=SECRET, WS_MAX_BUFFER="1000", WS_MAX_MESSAGE_SIZE="1000").ws_max_buffer == 1000


def test_a_lease_that_ends_in_a_silence_is_refused():
    """A lease shorter than one and a half times REDIS_TIMEOUT is refused, whichever of them was set."""
    for variable, value in (("REDIS_LEASE", "4"), ("REDIS_TIMEOUT", "20.5")):
        assert "REDIS_LEASE is" in refusal(JWT_SECRET=SECRET, **{variable: value})
    assert read(JWT_SECRET=SECRET, REDIS_LEASE="4.5").redis_lease == 4.5
    assert read(JWT_SECRET=SECRET, REDIS_TIMEOUT="20").redis_timeout == 20


def test_a_key_is_required():
    """Without a key nobody could be let in; the sentence knows the way to try roomcast anyway."""
    assert "JWT_SECRET or JWT_PUBLIC_KEY must be set" in refusal()
    assert "`roomcast dev`" in refusal()


@pytest.mark.parametrize(("algorithm", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_is_as_long_as_its_hash(algorithm, size):
    """A secret one byte too short for its algorithm is refused, and is not shown (RFC 7518, section 3.2)."""
    assert Settings(jwt_secret="k" * size, jwt_algorithms=(algorithm,)).jwt_algorithms == (algorithm,)
    sentence = refusal(JWT_SECRET="k" * (size - 1), JWT_ALGORITHMS=algorithm)
    assert f"{size - 1} bytes" in sentence
    assert f"{algorithm} needs {size}" in sentence
    assert "kkk" not in sentence


def test_a_secret_is_counted_in_bytes():
    """Sixteen letters of two bytes each are 32 bytes."""
    assert Settings(jwt_secret="é" * 16).jwt_secret == "é" * 16


def test_a_secret_that_is_a_public_key_is_refused(rsa_key):
    """A public key as HMAC secret would let everyone sign: algorithm confusion."""
    assert "JWT_PUBLIC_KEY" in refusal(JWT_SECRET=public(rsa_key))
    assert "JWT_PUBLIC_KEY" in refusal(JWT_SECRET='{"kty": "RSA", "n": "' + "A" * 40 + '"}')


@pytest.mark.parametrize("algorithm", ["none", "RS256", "hs256", "nonsense"])
def test_algorithms_must_fit_a_secret(algorithm):
    """With a secret only HMAC is meant; none is never an algorithm."""
    assert f"JWT_ALGORITHMS has {algorithm!r}" in refusal(JWT_SECRET=SECRET, JWT_ALGORITHMS=f"HS256,{algorithm}")


def test_a_public_key_brings_its_algorithm(rsa_key):
    """Without JWT_ALGORITHMS a key is good for what its kind is used for."""
    made = {
        "RS256": rsa_key,
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "ES384": ec.generate_private_key(ec.SECP384R1()),
        "ES512": ec.generate_private_key(ec.SECP521R1()),
        "ES256K": ec.generate_private_key(ec.SECP256K1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    for algorithm, key in made.items():
        assert Settings(jwt_public_key=public(key)).jwt_algorithms == (algorithm,)
    assert Settings(jwt_public_key=public(ed448.Ed448PrivateKey.generate())).jwt_algorithms == ("EdDSA",)


def test_algorithms_must_fit_a_public_key(rsa_key):
    """An RSA key takes RS and PS, and never HS, which would take the public key for a secret."""
    pem = public(rsa_key)
    assert Settings(jwt_public_key=pem, jwt_algorithms=("PS256", "RS512")).jwt_algorithms == ("PS256", "RS512")
    for algorithm in ("HS256", "ES256", "EdDSA", "none"):
        assert f"has {algorithm!r}" in refusal(JWT_PUBLIC_KEY=pem, JWT_ALGORITHMS=f"RS256, {algorithm}")


def test_secret_and_public_key_exclude_each_other(rsa_key):
    """Two kinds of key at once are algorithm confusion waiting to happen."""
    assert "both set" in refusal(JWT_SECRET=SECRET, JWT_PUBLIC_KEY=public(rsa_key))


def test_a_public_key_may_be_a_file(tmp_path, rsa_key):
    """JWT_PUBLIC_KEY may be a path, and its PEM may have its line ends written as backslash n."""
    pem = public(rsa_key)
    path = tmp_path / "key.pem"
    path.write_text(pem)
    by_path = Settings.from_env({"JWT_PUBLIC_KEY": f"{path}\n"})
    by_escapes = Settings.from_env({"JWT_PUBLIC_KEY": pem.replace("\n", "\\n")})
    assert by_path == by_escapes == Settings(jwt_public_key=pem)


def test_a_bad_public_key_is_explained(tmp_path, rsa_key):
    """What is no usable public key is refused with what it is instead, and without being shown."""
    private = rsa_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    small = public(rsa.generate_private_key(65537, 1024))
    binary = tmp_path / "key.der"
    binary.write_bytes(b"\x30\x82\xff")
    cases = {
        private: "private key",
        small: "1024 bits",
        public(dsa.generate_private_key(2048)): "signs no tokens",
        public(ec.generate_private_key(ec.SECP224R1())): "signs no tokens",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----": "not a public key",
        str(tmp_path / "missing.pem"): "No such file",
        str(binary): "not a text file",
        "nul\0byte": "not a text file",
    }
    for value, reason in cases.items():
        sentence = refusal(JWT_PUBLIC_KEY=value)
        assert reason in sentence
        assert value not in sentence


def test_room_access_knows_three_ways():
    """claims, open, or a URL to ask; plain http only to this machine."""
    for good in (
        "claims",
        "open",
        "https://app.example.com/may-join",
        "http://localhost:9/x",
        "http://127.0.0.2/",
        "http://[::1]:8/",
    ):
        assert read(ROOM_ACCESS=good).room_access == good
    for bad in ("closed", "ftp://x/", "https://", "https://host:port/", "/path", "https://exa mple/"):
        assert "claims, open, or an https:// URL" in refusal(JWT_SECRET=SECRET, ROOM_ACCESS=bad)
    for plain in ("http://app.example.com/", "http://10.0.0.1/", "http://localhost.example.com/", "http://[fe80::1]/"):
        assert "must be https://" in refusal(JWT_SECRET=SECRET, ROOM_ACCESS=plain)


def test_a_url_is_shown_without_its_secrets():
    """Neither a refusal nor repr shows what a URL carries before its host or after its path."""
    sentence = refusal(JWT_SECRET=SECRET, ROOM_ACCESS="http://me:pa55@app.example.com/x?key=k3y")
    shown = repr(read(ROOM_ACCESS="https://me:pa55@app.example.com/x?key=k3y"))
    for text in (sentence, shown):
        assert "app.example.com/x" in text
        assert not re.search("pa55|k3y", text)


def test_origins_are_as_browsers_write_them():
    """Case, default ports, a last slash and blanks are evened out; each origin must be one."""
    given = " https://App.Example.com:443/, http://localhost:3000,,http://a:80, *, http://[::1]:5173, app://local"
    assert read(ALLOWED_ORIGINS=given).allowed_origins == (
        "https://app.example.com",
        "http://localhost:3000",
        "http://a",
        "*",
        "http://[::1]:5173",
        "app://local",
    )
    for bad in ("app.example.com", "https://a/path", "https://*.example.com", "null", "https://a b"):
        assert "ALLOWED_ORIGINS has" in refusal(JWT_SECRET=SECRET, ALLOWED_ORIGINS=bad)


def test_an_api_key_fits_a_header():
    """A key that no Authorization header can carry is refused at the start, and is not shown."""
    assert read(API_KEY="s3cret+/=").api_key == "s3cret+/="
    for bad in ("two words", "endedby\n", "clé"):
        sentence = refusal(JWT_SECRET=SECRET, API_KEY=bad)
        assert "API_KEY" in sentence
        assert bad.strip() not in sentence


def test_repr_shows_no_secret(rsa_key):
    """Secrets are stars in repr and str; what is not set is visible as such."""
    text = f"{read(API_KEY='ap1-key')!r} {read(API_KEY='ap1-key')}"
    assert SECRET not in text
    assert "ap1-key" not in text
    assert "jwt_secret=***" in text
    assert "redis_url=None" in text
    assert "BEGIN" not in repr(Settings(jwt_public_key=public(rsa_key)))


def test_settings_are_frozen():
    """Nobody changes a setting after the start."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        read().console = True  # type: ignore[misc]


def test_describe_lists_every_field_once():
    """The table has a row for each field, in their order, with the defaults as one would write them."""
    table = {variable.name: variable for variable in describe()}
    assert list(table) == [field.name.upper() for field in dataclasses.fields(Settings)]
    assert table["WS_HEARTBEAT_INTERVAL"][1:3] == ("30", "s")
    assert table["JWT_REQUIRE_EXP"].default == "true"
    assert table["JWT_SECRET"].default == table["ALLOWED_ORIGINS"].default == ""
    assert all(variable.meaning and not variable.meaning.endswith(".") for variable in table.values())


def test_the_defaults_of_the_table_are_accepted():
    """What the table says are defaults, written into the environment, changes nothing."""
    environ = {variable.name: variable.default for variable in describe()}
    assert Settings.from_env(environ | {"JWT_SECRET": SECRET}) == read()


@given(st.dictionaries(st.sampled_from([variable.name for variable in describe()]), st.text(max_size=80)))
def test_nothing_but_settings_errors(environ):
    """Whatever the environment holds, there are settings or a sentence, never a traceback of another kind."""
    try:
        Settings.from_env(environ)
    except SettingsError as error:
        assert str(error)


def test_no_refusal_shows_a_secret():
    """Any setting that is wrong beside the secrets leaves them unsaid."""
    for name, bad in itertools.product([variable.name for variable in describe()], ["-1", "no such thing"]):
        try:
            Settings.from_env({"JWT_SECRET": SECRET, "API_KEY": "ap1-key", name: bad})
        except SettingsError as error:
            assert SECRET not in str(error)
            assert "ap1-key" not in str(error)
