"""Real data sets: find or download, verify, and return one tidy table each.

A data set is looked for in three places, in this order: the folder that the environment variable
``MTL_REF_DATA`` names (one sub-folder per data set, see ``SOURCES``), the cache of earlier downloads, and
the official address. The bytes of the original file must have the published SHA-256; Online Retail, which
circulates in several formats, is compared by its contents instead. Whatever goes wrong, one ``DataError``
says what was found and what to do.

All tables keep every row of the original, in snake_case columns: identifiers and free text are ``string``
(missing: ``<NA>``), closed lists are ``category``, counts and 0/1 flags are ``int64``, amounts are
``float64``.
"""

import gzip
import hashlib
import io
import os
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from .reproducible import need


class DataError(RuntimeError):
    """A data set that cannot be read; the message says which file, what was found and what to do."""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and how its original bytes are recognised.

    Attributes:
        folder: Sub-folder of ``MTL_REF_DATA`` and of the cache.
        file: Name of the original, unpacked file.
        sha256: SHA-256 of that file's bytes; empty if only its contents can be compared.
        url: Official address.
        licence: Licence as the official page states it.
        citation: How to cite it.
        account: Whether the official address needs an account.
    """

    folder: str
    file: str
    sha256: str
    url: str
    licence: str
    citation: str
    account: bool = False

    @property
    def saved_as(self) -> str:
        """Name under which a browser saves the official download."""
        return "archive.zip" if self.account else self.url.rsplit("/", 1)[-1]


SOURCES: dict[str, Source] = {
    "reviews": Source(
        folder="womens-clothing-reviews",
        file="Womens Clothing E-Commerce Reviews.csv",
        sha256="bd93cc515747ad1f87b8bc863c9e40da758509e6db6506a96d06976e61e36ee0",
        url="https://www.kaggle.com/datasets/nicapotato/womens-ecommerce-clothing-reviews",
        licence="CC0 1.0",
        citation="Brooks, N. (2018). Women's E-Commerce Clothing Reviews. Kaggle.",
        account=True,
    ),
    "online_retail": Source(
        folder="online-retail",
        file="Online Retail.xlsx",
        sha256="",
        url="https://archive.ics.uci.edu/static/public/352/online+retail.zip",
        licence="CC BY 4.0",
        citation="Chen, D. (2015). Online Retail [Dataset]. UCI. https://doi.org/10.24432/C5BW33",
    ),
    "online_shoppers": Source(
        folder="online-shoppers-intention",
        file="online_shoppers_intention.csv",
        sha256="b3055ee355f59134d851d32641183cb4a8b45def7124d2f50442a042f358e0d9",
        url="https://archive.ics.uci.edu/static/public/468/online+shoppers+purchasing+intention+dataset.zip",
        licence="CC BY 4.0",
        citation="Sakar, C., Kastro, Y. (2018). Online Shoppers Purchasing Intention. UCI. "
        "https://doi.org/10.24432/C5F88Q",
    ),
    "hillstrom": Source(
        folder="hillstrom-email",
        file="Kevin_Hillstrom_MineThatData_E-MailAnalytics_DataMiningChallenge_2008.03.20.csv",
        sha256="0e5893329d8b93cefecc571777672028290ab69865718020c78c7284f291aece",
        url="http://www.minethatdata.com/"
        "Kevin_Hillstrom_MineThatData_E-MailAnalytics_DataMiningChallenge_2008.03.20.csv",
        licence="no formal licence; published by its author for anybody to analyse",
        citation="Hillstrom, K. (2008). The MineThatData E-Mail Analytics and Data Mining Challenge.",
    ),
    "census_income": Source(
        folder="census-income-kdd",
        file="census-income.test",
        sha256="98402b1ab879573d0a7f38a699a40258080e25e33d3401e7bf9c96d3fa0fab8c",
        url="https://archive.ics.uci.edu/static/public/117/census+income+kdd.zip",
        licence="CC BY 4.0",
        citation="Census-Income (KDD) [Dataset] (2000). UCI. https://doi.org/10.24432/C5N30T",
    ),
}
SOURCES["census_income_train"] = replace(
    SOURCES["census_income"],
    file="census-income.data",
    sha256="3676a81db7d3528f3f8b9f3c699d0f0aa28db45e6e994fa0b8ed38327539ee86",
)

_RETAIL_BY_DAY = "online-retail-by-day.tar.gz"  # a public split of the same table into 305 CSV files
_RETAIL_BY_DAY_SHA256 = "272e5209c79f8c2520f4d81fe43a765c000b824293b4d27d1d29f8c5cf5f55e0"
_RETAIL_TEXT = "online-retail.csv"  # the workbook once read: a minute the first time, seconds afterwards
_RETAIL_FACTS = {  # known figures of the official workbook, by which the table is recognised in any format
    "rows": 541_909,
    "sum of quantity times price": 9_747_747.93,
    "distinct invoice_id": 25_900,
    "distinct stock_code": 4_070,
    "distinct customer_id": 4_372,
    "distinct country": 38,
    "missing customer_id": 135_080,
    "missing description": 1_454,
}

# Columns in the order of the original files, with the types they get.
_REVIEWS = """row_number:int64 item_id:string age:int64 title:string text:string rating:int64
    recommended:int64 positive_feedback:int64 division:string department:string class_name:string"""
_RETAIL = """invoice_id:string stock_code:string description:string quantity:int64 invoiced_at:string
    unit_price:float64 customer_id:string country:category"""
_SHOPPERS = """administrative:int64 administrative_duration:float64 informational:int64
    informational_duration:float64 product_related:int64 product_related_duration:float64
    bounce_rates:float64 exit_rates:float64 page_values:float64 special_day:float64 month:category
    operating_systems:category browser:category region:category traffic_type:category visitor_type:category
    weekend:bool revenue:bool"""
_HILLSTROM = """recency:int64 history_segment:category history:float64 mens:int64 womens:int64
    zip_code:category newbie:int64 channel:category segment:category visit:int64 conversion:int64
    spend:float64"""
_CENSUS = """age:int64 class_worker det_ind_code det_occ_code education wage_per_hour:int64 hs_college
    marital_stat major_ind_code major_occ_code race hisp_origin sex union_member unemp_reason
    full_or_part_emp capital_gains:int64 capital_losses:int64 stock_dividends:int64 tax_filer_stat
    region_prev_res state_prev_res det_hh_fam_stat det_hh_summ instance_weight:float64 mig_chg_msa
    mig_chg_reg mig_move_reg mig_same mig_prev_sunbelt num_emp:int64 fam_under_18 country_father
    country_mother country_self citizenship own_or_self vet_question vet_benefits weeks_worked:int64
    year:int64 income"""

_DAMAGED = (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


def available(name: str) -> bool:
    """Tell whether a data set can be read now, without a download.

    Args:
        name: A key of ``SOURCES``: a function of this module, or ``"census_income_train"``.

    Returns:
        True if a copy lies under ``MTL_REF_DATA`` or in the cache. It is verified only when it is read.

    Raises:
        ValueError: If there is no such data set.
    """
    if name not in list(SOURCES):
        raise ValueError(f"there is no data set {name!r}, only {', '.join(SOURCES)}: name one of them.")
    try:
        return _stored(SOURCES[name]) is not None
    except DataError:  # MTL_REF_DATA names no folder
        return False


def reviews() -> pd.DataFrame:
    """Women's E-Commerce Clothing Reviews: 23,486 reviews of 1,206 items (Kaggle, with an account).

    Traps: rating and recommended correlate at 0.79, so neither may be a feature of the other; there is no
    user id and no date; texts are cut at about 500 characters; the division ``Initmates`` is misspelt in the
    original; 21 rows are exact duplicates; 844 reviews have neither title nor text, 2,966 only a text.

    Returns:
        One row per review, in the original order, with the columns item_id (string), age (int, years),
        title, text (string, ``<NA>`` when missing), rating (int, 1 to 5), recommended (int, 0/1),
        positive_feedback (int, customers who found the review helpful), division, department, class_name
        (string, ``<NA>`` in 14 rows).

    Raises:
        DataError: If the file is missing (the message says what to download and where to put it) or altered.
    """
    table = _read_csv(_original(SOURCES["reviews"]), _REVIEWS)
    return table.drop(columns="row_number")  # 0, 1, 2, ...: the index of the table


def online_retail() -> pd.DataFrame:
    """Online Retail: 541,909 invoice lines of a British gift shop, December 2010 to December 2011 (UCI).

    The official workbook takes about a minute to read (and needs openpyxl); a downloaded one is kept as text
    in the cache. The archive ``online-retail-by-day.tar.gz`` takes seconds. All give the same table:
    descriptions lose their surrounding blanks, and the rows are sorted by all columns, because the formats
    differ in their order.

    Traps: 9,288 rows cancel earlier ones (invoice ids that start with C, negative quantity); three rows
    adjust bad debt (A); codes such as POST, DOT, M, BANK CHARGES and AMAZONFEE are no products; 135,080 rows
    have no customer; 2,515 rows have price 0; 5,268 rows repeat another one; many customers are wholesalers.

    Returns:
        One row per invoice line, with the columns invoice_id, stock_code, description (string), quantity
        (int, units), invoiced_at (datetime, to the minute), unit_price (float, pounds sterling), customer_id
        (string, ``<NA>`` when missing), country (category).

    Raises:
        DataError: If no copy can be read or its contents differ from the official table.
        ImportError: If a workbook must be read and openpyxl is missing, or downloaded and pooch is missing.
    """
    source = SOURCES["online_retail"]
    path = _stored(source) or _download(source)
    try:
        data = path.read_bytes()
        if path.name == _RETAIL_BY_DAY:
            data = _joined_days(_verified(data, _RETAIL_BY_DAY_SHA256, str(path), source))
        elif path.name != _RETAIL_TEXT:
            data = _workbook_text(_original(source, path))
        table = _tidy_retail(_read_csv(data, _RETAIL))
    except (*_DAMAGED, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): delete it and {_remedy(source)}") from error
    found = {
        "rows": len(table),
        "sum of quantity times price": round(float((table["quantity"] * table["unit_price"]).sum()), 2),
        **table.nunique().add_prefix("distinct "),
        **table.isna().sum().add_prefix("missing "),
    }
    for fact, expected in _RETAIL_FACTS.items():
        if found[fact] != expected:
            reason = f"{fact}: {found[fact]} instead of {expected}"
            raise DataError(f"{path} is not the official table ({reason}): delete it and {_remedy(source)}")
    if path.parent == _cache(source) and path.name != _RETAIL_TEXT:
        partial = path.with_name(f"{_RETAIL_TEXT}.{os.getpid()}")
        partial.write_bytes(data)
        os.replace(partial, path.with_name(_RETAIL_TEXT))  # atomic: nobody ever reads half a file
    return table


def online_shoppers() -> pd.DataFrame:
    """Online Shoppers Purchasing Intention: 12,330 sessions, 1,908 of them with a purchase (UCI).

    Traps: page_values is computed from transactions and leaks the label (56 % purchases where it is
    positive, 4 % where it is 0): measure what a model gains from it, then leave it out. 125 rows are exact
    duplicates. Months are names without a year; January and April do not occur. Many public copies are
    altered; this one is verified.

    Returns:
        One row per session, in the original order, with the columns administrative, informational,
        product_related (int, pages of that kind), administrative_duration, informational_duration,
        product_related_duration (float, seconds), bounce_rates, exit_rates (float, means over the pages
        visited), page_values (float), special_day (float, 0 to 1, closeness to a special day), month
        (category), operating_systems, browser, region, traffic_type (category, codes), visitor_type
        (category), weekend (int, 0/1), revenue (int, 0/1: the session ended with a purchase).

    Raises:
        DataError: If no copy can be read or downloaded, or its bytes are not the original ones.
    """
    table = _read_csv(_original(SOURCES["online_shoppers"]), _SHOPPERS)
    return table.astype({"weekend": "int64", "revenue": "int64"})


def hillstrom() -> pd.DataFrame:
    """Hillstrom's e-mail experiment: 64,000 customers, two campaigns and a control, assigned at random.

    Traps: visit, conversion and spend happen *after* the e-mail (segment) and are labels, never features;
    only 578 customers bought, so intervals are wide; 6,562 rows repeat another one, because there is no
    customer id; ``Surburban`` is misspelt in the original; history_segment is history cut into classes.

    Returns:
        One row per customer, in the original order, with the columns recency (int, months since the last
        purchase), history_segment (category), history (float, dollars spent in the past year), mens, womens
        (int, 0/1: bought such goods in the past year), zip_code (category), newbie (int, 0/1: new in the
        past year), channel (category), segment (category: ``Mens E-Mail``, ``Womens E-Mail``, ``No
        E-Mail``), and for the two weeks after: visit, conversion (int, 0/1), spend (float, dollars).

    Raises:
        DataError: If no copy can be read or downloaded, or its bytes are not the original ones.
    """
    return _read_csv(_original(SOURCES["hillstrom"]), _HILLSTROM)


def census_income(part: str = "test") -> pd.DataFrame:
    """Census-Income (KDD), the official train or test part: the benchmark of the MMoE paper (UCI).

    The paper's tasks are derived columns: income above 50,000 dollars; never married
    (``marital_stat == "Never married"``); education of at least an associate degree.

    Traps: instance_weight (people that a row stands for) is not a feature, by the data's own documentation;
    883 test rows are exact duplicates, 20,898 when the weight is left out; 23 % of the people are under 15,
    none of whom earns above 50,000 and all but 3 of whom never married; tax_filer_stat and det_hh_fam_stat
    nearly give marital_stat away; ``NA`` in hisp_origin is an answer, not a gap. Race and sex are in it: use
    it for the published benchmark only.

    Args:
        part: ``"test"`` (99,762 rows) or ``"train"`` (199,523 rows).

    Returns:
        One row per person, in the original order, with the fields' own names. Numbers are age (years),
        wage_per_hour (cents), capital_gains, capital_losses, stock_dividends (dollars), instance_weight
        (people), num_emp (size class of the employer, 0 to 6), weeks_worked (in the year), year (94 or 95).
        The last column, income, is the label (int, 1 if above 50,000 dollars). Everything else, codes
        included, is category; ``?`` is missing.

    Raises:
        ValueError: If the part is another one.
        DataError: If no copy can be read or downloaded, or its bytes are not the original ones.
    """
    if part not in ("test", "train"):
        raise ValueError(f"part must be 'test' or 'train', not {part!r}: choose one of them.")
    data = _original(SOURCES["census_income" if part == "test" else "census_income_train"])
    table = _read_csv(data, _CENSUS, header=None, missing=" ?")
    for field in table.columns[table.dtypes == "string"]:
        table[field] = table[field].str.strip().astype("category")
    return table.assign(income=(table["income"] == "50000+.").astype("int64"))


def _cache(source: Source) -> Path | None:
    """Folder of earlier downloads; None where pooch, which decides on it, is not installed."""
    try:
        return Path(need("pooch", "data").os_cache("mtl_ref")) / source.folder
    except ImportError:
        return None


def _stored(source: Source) -> Path | None:
    """Find a copy on this machine: first under ``MTL_REF_DATA``, then in the cache."""
    folders = [_cache(source)]
    if root := os.environ.get("MTL_REF_DATA"):
        if not Path(root).expanduser().is_dir():
            raise DataError(f"MTL_REF_DATA names {root!r}, which is no folder: correct it or unset it.")
        folders.insert(0, Path(root).expanduser() / source.folder)
    names = [source.file, f"{source.file}.gz", source.saved_as]
    if source is SOURCES["online_retail"]:
        names = [_RETAIL_BY_DAY, _RETAIL_TEXT, *names]
    copies = (folder / name for folder in folders if folder for name in names)
    return next((path for path in copies if path.is_file()), None)


def _remedy(source: Source) -> str:
    """What to do about a data set that cannot be read, as the end of a sentence."""
    account = " (a free account is needed)" if source.account else ""
    folder = f"sub-folder {source.folder!r} of the folder in the environment variable MTL_REF_DATA"
    return f"take {source.file!r} from {source.url}{account} and put it into {folder}."


def _download(source: Source) -> Path:
    """Fetch the official file into the cache; it gets its name only when its contents have been verified."""
    if source.account:
        raise DataError(f"{source.file!r} is not on this machine: {_remedy(source)}")
    pooch = need("pooch", "data")
    pooch.get_logger().setLevel("WARNING")  # it would print the hash of every download

    def fetch(url: str, output_file: str, caller: object) -> None:
        pooch.HTTPDownloader(timeout=30)(url, output_file, caller)
        _original(source, Path(output_file), url)

    try:
        name, folder = source.saved_as, _cache(source)
        return Path(pooch.retrieve(source.url, None, fname=name, path=folder, downloader=fetch))
    except (OSError, ValueError) as error:  # what requests raises are OSErrors
        status = getattr(getattr(error, "response", None), "status_code", "")
        reason = f"{type(error).__name__} {status}".strip()
        found = f"is not on this machine and cannot be fetched ({reason})"
        raise DataError(f"{source.file!r} {found}: connect to the network, or {_remedy(source)}") from error


def _original(source: Source, path: Path | None = None, origin: str = "") -> bytes:
    """The verified bytes of the original file, unpacked; ``origin`` is the address of a new download."""
    path = path or _stored(source) or _download(source)
    name, origin = (source.saved_as, origin) if origin else (path.name, str(path))
    try:
        original = _search(name, path.read_bytes(), source.file)
    except _DAMAGED as error:
        raise DataError(f"{origin} is damaged ({error}): delete it and {_remedy(source)}") from error
    if original is None:
        raise DataError(f"{origin} does not hold {source.file!r}: delete it and {_remedy(source)}")
    return _verified(original, source.sha256, origin, source)


def _verified(data: bytes, sha256: str, origin: str, source: Source) -> bytes:
    """The same bytes, if they are those of the original."""
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and digest != sha256:
        found = f"{len(data):,} bytes with SHA-256 {digest}, not {sha256}"
        raise DataError(f"{origin} is altered or cut short ({found}): delete it and {_remedy(source)}")
    return data


def _search(name: str, data: bytes, wanted: str) -> bytes | None:
    """Find a file in bytes that may be gzip, zip or tar, or one inside the other; None if it is not there."""
    if name == wanted:
        return data
    if name.endswith(".gz"):
        return _search(name.removesuffix(".gz"), gzip.decompress(data), wanted)
    members = _untar(data) if name.endswith(".tar") else []
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(member, archive.read(member)) for member in archive.namelist()]
    found = (_search(member.rsplit("/", 1)[-1], content, wanted) for member, content in members)
    return next((content for content in found if content is not None), None)


def _untar(data: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of the files in a tar archive, in its order."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = [(member.name, archive.extractfile(member)) for member in archive if member.isfile()]
        return [(name, file.read()) for name, file in files if file]


def _read_csv(data: bytes, columns: str, header: int | None = 0, missing: str = "") -> pd.DataFrame:
    """Parse a table whose columns are known; ``missing`` marks gaps, a column without a type is text."""
    types = dict(f"{column}:string".split(":")[:2] for column in columns.split())
    return pd.read_csv(
        io.BytesIO(data),
        names=list(types),
        dtype=types,
        header=header,
        keep_default_na=False,
        na_values=[missing],
    )


def _joined_days(data: bytes) -> bytes:
    """One table from the archive of daily files, each with its own header."""
    days = [content.split(b"\n", 1) for _, content in _untar(gzip.decompress(data))]
    return days[0][0] + b"\n" + b"".join(rows for _, rows in days)


def _workbook_text(data: bytes) -> bytes:
    """The official workbook as CSV."""
    need("openpyxl", "data")
    types = dict.fromkeys(("InvoiceNo", "StockCode", "Description", "CustomerID"), "string")
    table = pd.read_excel(io.BytesIO(data), dtype=types, keep_default_na=False, na_values=[""])
    table["InvoiceDate"] = table["InvoiceDate"].dt.round("min")  # a workbook keeps fractions of a day
    return table.to_csv(index=False, date_format="%Y-%m-%d %H:%M:%S").encode()


def _tidy_retail(table: pd.DataFrame) -> pd.DataFrame:
    """Types and one order of the rows, whatever format the table came in."""
    table["invoiced_at"] = pd.to_datetime(table["invoiced_at"], format="%Y-%m-%d %H:%M:%S")
    table["customer_id"] = table["customer_id"].str.removesuffix(".0")  # 17850.0 is customer 17850
    table["description"] = table["description"].str.strip()
    order = ["invoiced_at", *(column for column in table.columns if column != "invoiced_at")]
    return table.sort_values(order, ignore_index=True)
