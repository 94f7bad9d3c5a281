from __future__ import annotations

from collections.abc import ItemsView

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mmo_rl.report.mask import MASK, mask, mask_argument, mask_arguments, mask_patch, mask_tree

ENVIRON = {
    "OPENAI_API_KEY": "sesame-open-7731",
    "PGPASSWORD": "hunter2hunter2",
    "DATABASE_URL": "postgresql://bob:p%40ss-w0rd@db.example:5432/game",
    "OPENAI_API_KEY_FILE": "/etc/keys/openai",
    "PWD": "/home/bob/project",
    "SHORT_TOKEN": "abc",
    "DB_PASSWORD": "postgres",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("calling with sesame-open-7731 now", "calling with *** now"),
        ("pw hunter2hunter2!", "pw ***!"),
        ("decoded p@ss-w0rd, raw p%40ss-w0rd", "decoded ***, raw ***"),
        ("postgres://alice:s3cret@host/db", "postgres://alice:***@host/db"),
        ("postgres://alice:s3/c@ret@host/db", "postgres://alice:***@host/db"),
        ("redis://:s3cret@host", "redis://:***@host"),
        ("http://127.0.0.1:8080/a@b", "http://127.0.0.1:8080/a@b"),
        ("https://user@host/path", "https://user@host/path"),
        ("key sk-proj-0123456789abcdefXYZ end", "key *** end"),
        ("cat /etc/keys/openai in /home/bob/project", "cat /etc/keys/openai in /home/bob/project"),
        ("abc source=postgres", "abc source=postgres"),
        ('+    password = "tr0ub4dor"', "+    password = ***"),
        ("+    token = next(tokens)", "+    token = next(tokens)"),
        ("+    rows.sort(key=lambda row: row.id)", "+    rows.sort(key=lambda row: row.id)"),
    ],
)
def test_text_loses_its_secrets_and_nothing_else(text: str, expected: str) -> None:
    assert mask(text, environ=ENVIRON) == expected


PLANTED = "Zq9vT3xWk8LmN2pR5sYb7c"


@pytest.mark.parametrize(
    "line",
    [
        "OPENAI_API_KEY=§",
        "export WANDB_API_KEY=§",
        "DB_PASSWORD = §  # of the test",
        "api_key: §",
        '  password: "§"',
        "judge.api_key=§",
        '"token": "§"',
        "connect(password='§')",
        'os.environ["OPENAI_API_KEY"] = "§"',
        r'    "os.environ[\"OPENAI_API_KEY\"] = \"§\"\n",',
        "Authorization: Bearer §",
        "Authorization: Basic §==",
        "curl -H 'x-api-key: §'",
        "https://h/v1?api_key=§&x=1",
        "postgresql://u:§@h/db",
        "machine api.wandb.ai login user password §",
        "wandb login §",
        "host:5432:db:user:§",
        "sk-proj-§§",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.§",
        "-----BEGIN PRIVATE KEY-----\n+MIIEv§\n+§\n+-----END PRIVATE KEY-----",
        "0123456789abcdef0123456789abcdef01234567",
    ],
)
@pytest.mark.parametrize("sign", ["+", "-", " "])
def test_a_patch_loses_the_secrets_of_every_kind_of_file(line: str, sign: str) -> None:
    head = "diff --git a/x b/x\nindex 0123456789abcdef0123456789abcdef01234567..1"
    patch = f"{head}\n{sign}{line.replace('§', PLANTED)}\n"
    masked = mask_patch(patch)
    assert PLANTED not in masked and MASK in masked
    assert masked.startswith(head)


@pytest.mark.parametrize(
    "line",
    [
        "token: str",
        "token = next(tokens)",
        "api_key = settings.api_key2",
        "password: ${oc.env:PASSWORD1}",
        "api_key_env: OPENAI_API_KEY",
        "key = lambda row: row.id",
        "max_tokens: 4096",
        "the bearer of the news",
        "12:30:45:ab:cd",
    ],
)
def test_a_patch_keeps_what_is_no_secret(line: str) -> None:
    assert mask_patch(f"+{line}") == f"+{line}"


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("judge.api_key=abcd", "judge.api_key=***"),
        ("+judge.key=abcd", "+judge.key=***"),
        ("key=abcd", "key=***"),
        ("--password=abcd", "--password=***"),
        ("source.dsn='host=h password=pw'", "source.dsn=***"),
        ("host=h password=pw user=u", "host=h password=*** user=u"),
        ("judge={api_key: abcd, model: m}", "judge={api_key: ***, model: m}"),
        ("judge.api_key_env=OPENAI_API_KEY", "judge.api_key_env=OPENAI_API_KEY"),
        ("source.dsn_env=DATABASE_URL", "source.dsn_env=DATABASE_URL"),
        ("model.max_tokens=64", "model.max_tokens=64"),
        ("trainer.tokenizer=x", "trainer.tokenizer=x"),
        ("seed=0,1", "seed=0,1"),
        ("name=monkey", "name=monkey"),
        ("job_key=ab12", "job_key=ab12"),
        ("model.pad_token='<|pad|>'", "model.pad_token='<|pad|>'"),
        ("hf_token=abcd", "hf_token=***"),
    ],
)
def test_an_override_keeps_its_name_and_loses_its_secret(argument: str, expected: str) -> None:
    assert mask_argument(argument, environ={}) == expected


def test_the_value_after_a_bare_flag_is_masked() -> None:
    assert mask_arguments(["--api-key", "abcd", "seed=1"], environ={}) == ["--api-key", "***", "seed=1"]


def test_a_nested_config_is_masked_by_name_and_by_content() -> None:
    config = {
        "judge": {"api_key": "abcd", "api_key_env": "X", "urls": ["http://u:pw@h/"], "max_tokens": 5, "token": None},
        "job_key": "ab12",
        "seed": 0,
    }
    assert mask_tree(config, environ={}) == {
        "judge": {"api_key": "***", "api_key_env": "X", "urls": ["http://u:***@h/"], "max_tokens": 5, "token": None},
        "job_key": "ab12",
        "seed": 0,
    }


def test_the_environment_is_searched_once_for_a_whole_tree() -> None:
    looks = 0

    class Environ(dict[str, str]):
        def items(self) -> ItemsView[str, str]:
            nonlocal looks
            looks += 1
            return super().items()

    texts = ["calling with sesame-open-7731 now"] * 100
    assert mask_tree({"said": texts}, environ=Environ(ENVIRON)) == {"said": ["calling with *** now"] * 100}
    assert looks == 1


@pytest.mark.parametrize(
    "part",
    ["a", "x://a:", "://", "eyJ-", "eyJaaaaaaaaaaaa.", "password", '"password=', "key ", "\n", "sk-", "-", "a@b:"],
)
def test_the_time_is_linear_in_any_text(part: str) -> None:
    """What takes a minute at 40 KB, as it did, takes hours at this length."""
    text = part * (400_000 // len(part))
    assert "s3cret" not in mask_argument(text + " postgres://alice:s3cret@host/db", environ={})


@given(st.text(max_size=200), st.text("abcXYZ019_+%", min_size=1, max_size=40), st.text(max_size=50))
def test_the_password_of_a_url_is_masked_in_any_text(before: str, password: str, after: str) -> None:
    assume(password not in before + after + "postgres://bob:@db.example/game")
    assert password not in mask(f"{before} postgres://bob:{password}@db.example/game {after}", environ={})


def test_a_key_among_the_parameters_of_an_address_is_masked() -> None:
    text = "GET https://models.example/v1?version=2&key=planted0001&page=3: 403"
    assert mask(text, environ={}) == "GET https://models.example/v1?version=2&key=***&page=3: 403"
    assert mask('url = base + "?key=" + key', environ={}) == 'url = base + "?key=" + key'
