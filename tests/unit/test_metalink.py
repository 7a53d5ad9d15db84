"""A metalink becomes URLs and what is known of the file, or one line that says what is wrong with it."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.staging.planning.metalink import MOST_BYTES, Metalink, MetalinkError, parse
from pilot.values.names import Checksum

RFC5854 = b"""<?xml version="1.0" encoding="UTF-8"?>
<metalink xmlns="urn:ietf:params:xml:ns:metalink">
  <file name="other"><url>https://h/other</url></file>
  <file name="words.txt">
    <size>12</size>
    <hash type="sha-256">00</hash>
    <hash type="md5">900150983cd24fb0d6963f7d28e17f72</hash>
    <hash type="adler32">24d0127</hash>
    <url location="us">http://last/words.txt</url>
    <url location="de" priority="2">
       https://second/words.txt </url>
    <url priority="1">root://first:1094//data/words.txt</url>
    <url priority="1">ftp://old/words.txt</url>
    <url priority="1">https://first/more.meta4</url>
    <metaurl mediatype="torrent">http://t/words.torrent</metaurl>
  </file>
</metalink>"""

VERSION_3 = b"""<metalink version="3.0" xmlns="http://www.metalinker.org/"><files><file name="f">
  <size>3</size><verification><hash type="md5">900150983cd24fb0d6963f7d28e17f72</hash></verification>
  <resources><url type="http" preference="10">http://b/f</url><url type="http" preference="90">http://a/f</url>
  </resources></file></files></metalink>"""


def test_the_file_of_the_name_is_read_with_its_urls_by_priority():
    assert parse(RFC5854, "words.txt") == Metalink(
        ("root://first:1094//data/words.txt", "https://second/words.txt", "http://last/words.txt"),
        12,
        (Checksum("adler32", "024d0127"), Checksum("md5", "900150983cd24fb0d6963f7d28e17f72")),
    )


def test_without_a_file_of_the_name_the_first_one_is_meant():
    assert parse(RFC5854, "my.name").urls == ("https://h/other",)


def test_version_3_counts_its_preferences_the_other_way_round():
    found = parse(VERSION_3, "f")
    assert found == Metalink(("http://a/f", "http://b/f"), 3, (Checksum("md5", "900150983cd24fb0d6963f7d28e17f72"),))


BOMB = b"""<!DOCTYPE m [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="f"><url>http://h/&b;</url></file></metalink>"""
OUTSIDE = (
    b"""<!DOCTYPE m SYSTEM "file:///etc/passwd"><metalink><file name="f"><url>http://h/f</url></file></metalink>"""
)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (BOMB, "DOCTYPE"),
        (OUTSIDE, "DOCTYPE"),
        (BOMB.decode().encode("utf-16"), "DOCTYPE"),
        (b"", "cannot be read"),
        (b"<html/>", "no metalink"),
        (b"<metalink/>", "no file"),
        (b"<metalink><file name='f'/></metalink>", "no URL"),
        (b"<metalink><file name='f'><url>magnet:?xt=f</url></file></metalink>", "no URL"),
        (b"<metalink><file name='f'><size>-1</size><url>http://h/f</url></file></metalink>", "not a size"),
        (b"<metalink><file><hash type='md5'>xx</hash><url>http://h/f</url></file></metalink>", "hex digits"),
        (b"<?xml version='1.0' encoding='klingon'?><metalink/>", "cannot be read"),
        (b"<metalink>" + b" " * MOST_BYTES + b"</metalink>", "more than"),
        (b"<a>" * 100_000, "cannot be read"),
    ],
    ids=range(13),
)
def test_what_cannot_be_used_says_why(content, why):
    with pytest.raises(MetalinkError, match=why):
        parse(content, "f")


def test_a_url_that_leaves_its_directory_is_not_among_the_urls():
    content = b"<metalink><file><url>http://h/../f</url><url>http://h/f</url></file></metalink>"
    assert parse(content, "f").urls == ("http://h/f",)


pieces = st.sampled_from(
    ["<metalink>", "</metalink>", "<file name='f'>", "<file>", "</file>", "<url priority='", "5", "'>", "<url>",
     "</url>", "http://h/f", "<size>", "</size>", "<hash type='md5'>", "<hash type='adler32'>", "</hash>",
     "<!DOCTYPE a>", "&amp;", "&x;", "<files>", "</files>",
     "<resources>", "</resources>", "\x00", "<![CDATA[", "]]>", "<!--", "-->"]
)  # fmt: skip


@given(st.one_of(st.binary(max_size=300), st.lists(pieces | st.text(max_size=5), max_size=30).map("".join)))
def test_any_bytes_are_a_metalink_or_the_declared_error(content):
    with contextlib.suppress(MetalinkError):
        found = parse(content if isinstance(content, bytes) else content.encode(errors="replace"), "f")
        assert found.urls
