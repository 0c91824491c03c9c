"""Makes the JSON Schemas beside this file from the compiled OCSF schemas of a package.

    pip install ocsf-json-schema==1.2.0
    python tests/data/ocsf/make.py

The schemas are reduced to the classes, profiles and attributes that nono_trio/core/export/ocsf/
fills, and to what a version requires besides. An attribute that is left out here is refused by
`additionalProperties`, so a schema is stricter than OCSF, never laxer.
"""

import json
from pathlib import Path

import msgspec
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from nono_trio.core.export.ocsf import objects

VERSIONS = ("1.3.0", "1.6.0", "1.8.0")
CLASSES = (
    "network_activity", "http_activity", "dns_activity", "file_activity", "detection_finding",
    "application_lifecycle", "base_event",
)  # fmt: skip
PROFILES = [objects.HOST, objects.SECURITY_CONTROL, objects.NETWORK_PROXY]


def our_names():
    structs = [one for one in vars(objects).values() if isinstance(one, type)]
    return {
        name for one in structs if issubclass(one, msgspec.Struct) for name in one.__struct_fields__
    }


def reduced(schema, names):
    """Return a schema with the properties in `names`, or required, alone."""
    required = set(schema.get("required", ()))
    kept = {
        name: plain(value)
        for name, value in schema["properties"].items()
        if name in names | required
    }
    result = {"type": "object", "properties": kept}
    result["additionalProperties"] = not schema["properties"]
    for key in ("required", "anyOf"):
        if schema.get(key):
            result[key] = schema[key]
    return result


def plain(value):
    return {key: found for key, found in value.items() if key not in ("title", "deprecated")}


def references(value):
    return {part.partition('"')[0] for part in json.dumps(value).split('"#/$defs/')[1:]}


def with_definitions(schema, names):
    """Return a class with the objects that it leads to."""
    result, wanted = reduced(schema, names), set()
    definitions = {}
    wanted = references(result)
    while wanted - set(definitions):
        for name in wanted - set(definitions):
            definitions[name] = reduced(schema["$defs"][name], names)
            wanted |= references(definitions[name])
    return result | {"$defs": dict(sorted(definitions.items()))}


def main():
    here = Path(__file__).parent
    for version in VERSIONS:
        source = get_ocsf_schema(version)
        made = OcsfJsonSchemaEmbedded(source)
        classes = {}
        for name in CLASSES:
            uid = str(source["classes"][name].get("uid", 0))
            profiles = [] if name == "base_event" else PROFILES
            classes[uid] = with_definitions(made.get_class_schema(name, profiles), our_names())
        text = json.dumps(classes, indent=1, sort_keys=True)
        (here / f"{version}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
