import json

from exported_lines import BARE, FACTS, LINES
from schemas import validate

from nono_trio.core.export import ndjson


def test_every_kind_of_line_is_one_line_that_fits_the_published_schema():
    for facts in (FACTS, BARE):
        for line in LINES:
            (text,) = ndjson.encode(line, facts).splitlines()
            found = json.loads(text)
            validate("export", found)
            if "message" in found:
                assert found["id"] == f"{facts.session_id}/{found['kind']}"
                continue
            assert found["id"].startswith(f"{facts.session_id}/{found['sequence']}")
            assert ("flow" in found) is found["id"].endswith("/flow") is ("event" not in found)
