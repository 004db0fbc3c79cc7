"""Data sets: what is published about them holds, and each thing that can go wrong has one clear sentence."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import re
import socket
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pooch
import pytest

from mtl_ref import datasets
from mtl_ref.datasets import DataError

pytestmark = [  # a warning would end up in a notebook; a socket that requests has yet to close would not
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

HILLSTROM = b"""recency,history_segment,history,mens,womens,zip_code,newbie,channel,segment,\
visit,conversion,spend\r
10,2) $100 - $200,142.44,1,0,Surburban,0,Phone,Womens E-Mail,0,0,0\r
6,3) $200 - $350,329.08,1,1,Rural,1,Web,No E-Mail,1,1,29.99\r
"""
RETAIL_HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
RETAIL_DAYS = [
    f"{RETAIL_HEADER}\n536366,71053, METAL LANTERN ,6,2010-12-01 08:28:00,0.1,17850.0,United Kingdom\n"
    "536365,85123A,HOLDER,-6,2010-12-01 08:26:00,2.55,,France\n",
    f"{RETAIL_HEADER}\nC536367,POST,,1,2010-12-02 09:00:00,18.0,12345.0,France\n",
]
RETAIL_FACTS = {
    "rows": 3,
    "sum of quantity times price": 3.3,
    "distinct invoice_id": 3,
    "missing customer_id": 1,
    "missing description": 1,
}


@pytest.fixture(autouse=True)
def no_other_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No test but those of the real data reads or writes the cache of the person who runs it."""
    if not request.node.get_closest_marker("data"):
        monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that MTL_REF_DATA names."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("MTL_REF_DATA", str(root))
    return root


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A web server on this machine: the folder that it serves, and its address."""
    served = tmp_path / "served"
    served.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Print nothing."""

    handler = functools.partial(Quiet, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield served, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def place(root: Path, name: str, file: str, data: bytes) -> Path:
    """Put a file where the loader of a data set looks for it."""
    path = root / datasets.SOURCES[name].folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def expect(monkeypatch: pytest.MonkeyPatch, name: str, data: bytes | None, url: str | None = None) -> None:
    """Let a data set be small: its original bytes are these, its official address is that."""
    source = datasets.SOURCES[name]
    digest = hashlib.sha256(data).hexdigest() if data is not None else source.sha256
    monkeypatch.setitem(datasets.SOURCES, name, replace(source, sha256=digest, url=url or source.url))


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("read me.txt", "not this one")
        archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def one_sentence(error: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    """The message is one line that holds these parts."""
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# The real data: what is published about each


@pytest.mark.data("reviews")
def test_reviews_as_published() -> None:
    table = datasets.reviews()
    assert len(table) == 23_486
    assert table["rating"].value_counts().sort_index().tolist() == [842, 1_565, 2_871, 5_077, 13_131]
    assert round(table["recommended"].mean(), 3) == 0.822
    missing = {"title": 3_810, "text": 845, "division": 14, "department": 14, "class_name": 14}
    assert table.isna().sum()[lambda count: count > 0].to_dict() == missing
    assert table["item_id"].nunique() == 1_206
    assert table.index.equals(pd.RangeIndex(23_486))
    assert round(table["rating"].corr(table["recommended"]), 2) == 0.79
    assert (table["rating"].eq(3) & table["recommended"].eq(1)).sum() == 1_189
    assert [*table] == (
        "item_id age title text rating recommended positive_feedback division department class_name".split()
    )
    texts = ["item_id", "title", "text", "division", "department", "class_name"]
    assert all(table[column].dtype == "string" for column in texts)
    assert all(table[column].dtype == "int64" for column in [*table] if column not in texts)
    no_title, no_text = table["title"].isna(), table["text"].isna()
    assert (no_title & no_text).sum() == 844 and (no_title & ~no_text).sum() == 2_966
    assert table["text"].str.len().max() == 508 and table.duplicated().sum() == 21
    assert (table["division"] == "Initmates").sum() == 1_502


@pytest.mark.data("online_retail")
def test_online_retail_as_published() -> None:
    table = datasets.online_retail()
    assert len(table) == 541_909
    assert table["invoice_id"].nunique() == 25_900
    cancelled = table["invoice_id"].str.startswith("C")
    assert cancelled.sum() == 9_288 and table.loc[cancelled, "invoice_id"].nunique() == 3_836
    assert (table.loc[cancelled, "quantity"] < 0).all()
    distinct = {"stock_code": 4_070, "customer_id": 4_372, "country": 38}
    assert table[[*distinct]].nunique().to_dict() == distinct
    missing = {"description": 1_454, "customer_id": 135_080}
    assert table.isna().sum()[lambda count: count > 0].to_dict() == missing
    assert table.duplicated().sum() == 5_268
    assert table["invoiced_at"].min() == pd.Timestamp("2010-12-01 08:26")
    assert table["invoiced_at"].max() == pd.Timestamp("2011-12-09 12:50")
    assert table["invoiced_at"].is_monotonic_increasing
    assert round((table["quantity"] * table["unit_price"]).sum(), 2) == 9_747_747.93
    sold = table[table["customer_id"].notna() & (table["quantity"] > 0) & (table["unit_price"] > 0)]
    assert len(sold) == 397_884
    assert sold["customer_id"].nunique() == 4_338 and sold["stock_code"].nunique() == 3_665
    assert len(sold[["customer_id", "stock_code"]].drop_duplicates()) == 266_792
    assert table["customer_id"].dropna().str.fullmatch(r"\d{5}").all()


@pytest.mark.data("online_shoppers")
def test_online_shoppers_as_published() -> None:
    table = datasets.online_shoppers()
    assert table.shape == (12_330, 18)
    assert table["revenue"].value_counts().to_dict() == {0: 10_422, 1: 1_908}
    assert not table.isna().any(axis=None) and table.duplicated().sum() == 125
    leak = table.groupby(table["page_values"] > 0)["revenue"].mean().round(2)
    assert leak.tolist() == [0.04, 0.56]
    assert {*table["month"].cat.categories}.isdisjoint({"Jan", "Apr"})


@pytest.mark.data("hillstrom")
def test_hillstrom_as_published() -> None:
    table = datasets.hillstrom()
    assert table.shape == (64_000, 12)
    arms = table.groupby("segment", observed=True).agg(
        customers=("visit", "size"),
        visit=("visit", "mean"),
        conversion=("conversion", "mean"),
        spend=("spend", "mean"),
    )
    arms = arms.loc[["No E-Mail", "Mens E-Mail", "Womens E-Mail"]]
    assert arms["customers"].tolist() == [21_306, 21_307, 21_387]
    assert (100 * arms["visit"]).round(2).tolist() == [10.62, 18.28, 15.14]
    assert (100 * arms["conversion"]).round(3).tolist() == [0.573, 1.253, 0.884]
    assert arms["spend"].round(3).tolist() == [0.653, 1.423, 1.077]
    assert table["visit"].sum() == 9_394 and table["conversion"].sum() == 578
    assert (table["visit"] >= table["conversion"]).all()
    assert ((table["spend"] > 0) == (table["conversion"] == 1)).all()
    assert "Surburban" in table["zip_code"].cat.categories and table.duplicated().sum() == 6_562


@pytest.mark.data("census_income")
def test_census_income_test_part_as_published() -> None:
    table = datasets.census_income()
    assert table.shape == (99_762, 42)
    never_married = (table["marital_stat"] == "Never married").astype(int)
    degrees = "Associates|Bachelors|Masters|Prof school|Doctorate"
    educated = table["education"].astype(str).str.contains(degrees).astype(int)
    assert round(100 * table["income"].mean(), 2) == 6.20
    assert round(100 * never_married.mean(), 2) == 43.25
    assert round(table["income"].corr(never_married), 4) == -0.1787
    assert round(educated.corr(never_married), 4) == -0.2376
    assert table.duplicated().sum() == 883
    assert table.drop(columns="instance_weight").duplicated().sum() == 20_898
    children = table[table["age"] < 15]
    assert round(len(children) / len(table), 2) == 0.23
    assert (children["marital_stat"] != "Never married").sum() == 3 and not children["income"].any()
    assert table["mig_chg_msa"].isna().sum() == 49_946 and (table["hisp_origin"] == "NA").sum() == 405
    for column in table.select_dtypes("category"):
        assert (table[column].cat.categories == table[column].cat.categories.str.strip()).all()


@pytest.mark.skipif(
    not datasets.available("census_income_train"), reason="the train part is not at hand (optional)"
)
def test_census_income_train_part_as_published() -> None:
    assert datasets.census_income("train").shape == (199_523, 42)


def test_every_source_is_complete() -> None:
    for name, source in datasets.SOURCES.items():
        assert source.licence and source.citation and source.file and source.folder
        assert re.fullmatch(r"https?://\S+", source.url)
        assert re.fullmatch(r"[0-9a-f]{64}", source.sha256) or name == "online_retail"
        assert source.account == (name == "reviews")


# Where a data set is looked for


@pytest.mark.parametrize("form", ["plain", "gzip", "zip"])
def test_folder_may_hold_any_wrapping_of_the_original(
    folder: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    rows = b",Clothing ID,Age,Title,Review Text,Rating,Recommended IND,Positive Feedback Count,D,De,C\n"
    rows += b"0,767,33,, NA ,4,1,0,Initmates,Intimate,\n1,077,34,Nice,,5,1,2,General,Dresses,Dresses\n"
    expect(monkeypatch, "reviews", rows)
    file = datasets.SOURCES["reviews"].file
    wrapped = {
        "plain": (file, rows),
        "gzip": (f"{file}.gz", gzip.compress(rows)),
        "zip": ("archive.zip", zipped(file, rows)),
    }
    assert not datasets.available("reviews")
    place(folder, "reviews", *wrapped[form])
    assert datasets.available("reviews")
    table = datasets.reviews()
    assert table["item_id"].tolist() == ["767", "077"]  # identifiers are text
    assert table["title"].isna().tolist() == [True, False]
    assert table["text"].tolist() == [" NA ", pd.NA]  # only an empty field is missing; nothing is stripped


def test_folder_comes_before_cache_and_cache_before_download(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect(monkeypatch, "hillstrom", HILLSTROM, "http://127.0.0.1:9/nobody-listens.csv")
    file = datasets.SOURCES["hillstrom"].file
    (tmp_path / "cache" / "mtl_ref").mkdir(parents=True)
    place(tmp_path / "cache" / "mtl_ref", "hillstrom", file, HILLSTROM)
    assert datasets.available("hillstrom") and len(datasets.hillstrom()) == 2
    place(folder, "hillstrom", file, b"altered")
    with pytest.raises(DataError, match="altered"):
        datasets.hillstrom()


def test_census_is_found_in_the_tar_inside_the_zip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(age: int, education: str, weight: float, income: str) -> str:
        fields = dict.fromkeys(datasets._CENSUS.split(), "Not in universe")
        fields |= {field: "0" for field in fields if ":" in field}
        fields |= {"age:int64": str(age), "education": education, "race": "?", "income": income}
        fields |= {"instance_weight:float64": str(weight), "citizenship": "Not a citizen of U S "}
        return ", ".join(fields.values()) + "\n"

    test = (row(38, "Children", 1032.38, "- 50000.") + row(2, "NA", 1.5, "50000+.")).encode()
    train = row(7, "Children", 2.0, "- 50000.").encode()
    expect(monkeypatch, "census_income", test)
    expect(monkeypatch, "census_income_train", train)
    members = {"census-income.names": b"", "census-income.data": train, "census-income.test": test}
    place(folder, "census_income", "census+income+kdd.zip", zipped("census.tar.gz", tarred(members)))
    table = datasets.census_income()
    assert table["age"].tolist() == [38, 2] and table["income"].tolist() == [0, 1]
    assert table["education"].tolist() == ["Children", "NA"] and table["race"].isna().all()
    assert table["citizenship"].tolist() == ["Not a citizen of U S"] * 2
    assert table["instance_weight"].tolist() == [1032.38, 1.5]
    assert datasets.census_income("train")["age"].tolist() == [7]
    with pytest.raises(ValueError, match="part must be 'test' or 'train', not 'both'"):
        datasets.census_income("both")


def test_unknown_data_set_is_named() -> None:
    with pytest.raises(ValueError, match="there is no data set 'reviwes'.*reviews"):
        datasets.available("reviwes")


def test_without_pooch_a_folder_still_serves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)  # import pooch raises ImportError
    expect(monkeypatch, "hillstrom", HILLSTROM)
    assert not datasets.available("hillstrom")
    with pytest.raises(ImportError, match=r"mtl-ref\[data\]"):
        datasets.hillstrom()
    place(folder, "hillstrom", datasets.SOURCES["hillstrom"].file, HILLSTROM)
    assert datasets.available("hillstrom") and len(datasets.hillstrom()) == 2


# What can go wrong


def test_missing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTL_REF_DATA", str(tmp_path / "nowhere"))
    assert not datasets.available("hillstrom")
    with pytest.raises(DataError) as error:
        datasets.hillstrom()
    one_sentence(error, "MTL_REF_DATA", "nowhere", "no folder")


def test_account_only_says_what_to_download_and_where_to_put_it(folder: Path) -> None:
    with pytest.raises(DataError) as error:
        datasets.reviews()
    one_sentence(
        error,
        "'Womens Clothing E-Commerce Reviews.csv' is not on this machine",
        "https://www.kaggle.com/datasets/nicapotato/womens-ecommerce-clothing-reviews",
        "a free account is needed",
        "sub-folder 'womens-clothing-reviews'",
        "MTL_REF_DATA",
    )


@pytest.mark.parametrize("name", ["reviews", "online_shoppers", "hillstrom", "census_income"])
def test_altered_file(folder: Path, name: str) -> None:
    path = place(folder, name, datasets.SOURCES[name].file, b"a,b\n1,2\n")
    with pytest.raises(DataError) as error:
        getattr(datasets, name)()
    one_sentence(
        error,
        str(path),
        "altered",
        "8 bytes",
        datasets.SOURCES[name].sha256,
        "delete it",
        "https://" * (name != "hillstrom"),
    )


@pytest.mark.parametrize("length", [0, 5, 40, -9])
def test_truncated_gzip(folder: Path, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    expect(monkeypatch, "hillstrom", HILLSTROM)
    file = datasets.SOURCES["hillstrom"].file
    path = place(folder, "hillstrom", f"{file}.gz", gzip.compress(HILLSTROM)[:length])
    with pytest.raises(DataError) as error:
        datasets.hillstrom()
    one_sentence(error, str(path), "delete it")


@pytest.mark.parametrize("length", [0, 50, -9])
def test_truncated_zip(folder: Path, length: int) -> None:
    archive = zipped("online_shoppers_intention.csv", b"some,thing\n" * 100)[:length]
    path = place(folder, "online_shoppers", datasets.SOURCES["online_shoppers"].saved_as, archive)
    with pytest.raises(DataError) as error:
        datasets.online_shoppers()
    one_sentence(error, str(path), "is damaged", "delete it")


def test_archive_without_the_file(folder: Path) -> None:
    path = place(
        folder, "online_shoppers", datasets.SOURCES["online_shoppers"].saved_as, zipped("other.csv", b"")
    )
    with pytest.raises(DataError) as error:
        datasets.online_shoppers()
    one_sentence(error, str(path), "does not hold 'online_shoppers_intention.csv'", "delete it")


# Downloads, from a server on this machine


def test_download_is_verified_and_kept(
    server: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MTL_REF_DATA", raising=False)
    served, address = server
    expect(monkeypatch, "hillstrom", HILLSTROM, f"{address}/hillstrom.csv.gz")
    (served / "hillstrom.csv.gz").write_bytes(gzip.compress(HILLSTROM))
    source = replace(datasets.SOURCES["hillstrom"], file="hillstrom.csv")
    monkeypatch.setitem(datasets.SOURCES, "hillstrom", source)
    assert not datasets.available("hillstrom")
    first = datasets.hillstrom()
    assert first["spend"].tolist() == [0.0, 29.99] and first["visit"].dtype == "int64"
    (served / "hillstrom.csv.gz").unlink()
    assert datasets.available("hillstrom")
    pd.testing.assert_frame_equal(datasets.hillstrom(), first)
    kept = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept == ["hillstrom.csv.gz"]
    assert capfd.readouterr() == ("", "")  # nothing that would end up in a notebook


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"<html>please log in</html>", ("altered", "26 bytes")),
        (HILLSTROM[:-7], ("altered or cut short",)),
        (None, ("HTTPError 404", "connect to the network")),
    ],
)
def test_bad_download_leaves_nothing_behind(
    server: tuple[Path, str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
    parts: tuple[str, ...],
) -> None:
    served, address = server
    file = datasets.SOURCES["hillstrom"].file
    expect(monkeypatch, "hillstrom", HILLSTROM, f"{address}/{file}")
    if content is not None:
        (served / file).write_bytes(content)
    with pytest.raises(DataError) as error:
        datasets.hillstrom()
    one_sentence(error, *parts, address, "MTL_REF_DATA")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not datasets.available("hillstrom")


@pytest.mark.parametrize("name", ["online_retail", "online_shoppers", "hillstrom", "census_income"])
def test_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    with pytest.raises(DataError) as error:
        getattr(datasets, name)()
    source = datasets.SOURCES[name]
    one_sentence(error, source.file, "cannot be fetched", "connect to the network", source.url, source.folder)


# Online Retail comes in several formats


def workbook(rows: list[str]) -> bytes:
    """The rows as the official workbook holds them: what looks like a number is one."""
    table = pd.read_csv(io.StringIO("".join([*rows[:1], *(day.split("\n", 1)[1] for day in rows[1:])])))
    table["InvoiceDate"] = pd.to_datetime(table["InvoiceDate"]) + pd.Timedelta(microseconds=300)
    table["StockCode"] = [int(code) if code.isdigit() else code for code in table["StockCode"]]
    buffer = io.BytesIO()
    table.to_excel(buffer, index=False)
    return buffer.getvalue()


@pytest.fixture
def small_retail(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The archive of daily files, with three rows."""
    archive = tarred({f"by-day/{day}.csv": rows.encode() for day, rows in enumerate(RETAIL_DAYS)})
    monkeypatch.setattr(datasets, "_RETAIL_FACTS", RETAIL_FACTS)
    monkeypatch.setattr(datasets, "_RETAIL_BY_DAY_SHA256", hashlib.sha256(archive).hexdigest())
    return archive


def test_retail_is_the_same_table_from_every_format(
    folder: Path,
    tmp_path: Path,
    server: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    small_retail: bytes,
) -> None:
    place(folder, "online_retail", "online-retail-by-day.tar.gz", small_retail)
    by_day = datasets.online_retail()
    assert by_day["invoice_id"].tolist() == ["536365", "536366", "C536367"]  # in the order of time
    assert by_day["stock_code"].tolist() == ["85123A", "71053", "POST"]
    assert by_day["description"].tolist() == ["HOLDER", "METAL LANTERN", pd.NA]
    assert by_day["customer_id"].tolist() == [pd.NA, "17850", "12345"]
    assert by_day["unit_price"].tolist() == [2.55, 0.1, 18.0]
    monkeypatch.delenv("MTL_REF_DATA")
    served, address = server
    expect(monkeypatch, "online_retail", None, f"{address}/online+retail.zip")
    (served / "online+retail.zip").write_bytes(zipped("Online Retail.xlsx", workbook(RETAIL_DAYS)))
    pd.testing.assert_frame_equal(datasets.online_retail(), by_day)  # downloaded
    kept = tmp_path / "cache" / "mtl_ref" / "online-retail"
    assert sorted(path.name for path in kept.iterdir()) == ["online+retail.zip", "online-retail.csv"]
    monkeypatch.setattr(datasets, "_workbook_text", None)  # not read again
    pd.testing.assert_frame_equal(datasets.online_retail(), by_day)


def test_retail_workbook_in_the_folder(folder: Path, small_retail: bytes) -> None:
    path = place(folder, "online_retail", "Online Retail.xlsx", workbook(RETAIL_DAYS))
    assert len(datasets.online_retail()) == 3
    assert [file.name for file in path.parent.iterdir()] == ["Online Retail.xlsx"]  # nothing is written there


def test_retail_workbook_needs_openpyxl(
    folder: Path, monkeypatch: pytest.MonkeyPatch, small_retail: bytes
) -> None:
    place(folder, "online_retail", "Online Retail.xlsx", workbook(RETAIL_DAYS))
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ImportError, match=r"openpyxl.*mtl-ref\[data\]"):
        datasets.online_retail()


@pytest.mark.parametrize(
    ("file", "content", "parts"),
    [
        ("online-retail-by-day.tar.gz", b"cut", ("altered or cut short", "3 bytes")),
        ("Online Retail.xlsx", b"PK cut", ("cannot be read",)),
        (
            "Online Retail.xlsx",
            workbook(RETAIL_DAYS[:1]),
            ("not the official table", "rows: 2 instead of 3"),
        ),
        ("online+retail.zip", zipped("Online Retail II.xlsx", b""), ("does not hold 'Online Retail.xlsx'",)),
        ("online-retail.csv", b"InvoiceNo\n1\n", ("cannot be read",)),
    ],
)
def test_retail_that_is_damaged_or_altered(
    folder: Path, small_retail: bytes, file: str, content: bytes, parts: tuple[str, ...]
) -> None:
    path = place(folder, "online_retail", file, content)
    with pytest.raises(DataError) as error:
        datasets.online_retail()
    one_sentence(error, str(path), *parts, "delete it", "https://archive.ics.uci.edu")
