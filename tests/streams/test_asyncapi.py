"""The document for producers and feed services says what the code does."""

from pathlib import Path

import msgspec
import yaml

from streams import events, recommendations, topics

DOCUMENT = yaml.safe_load((Path(__file__).parents[2] / "docs" / "asyncapi.yaml").read_text(encoding="utf-8"))
TYPES = [*events.TYPES.values(), recommendations.VideoRecommendations, recommendations.CommentRecommendations]


def test_the_schemas_are_those_of_the_types() -> None:
    _, schemas = msgspec.json.schema_components(TYPES, ref_template="#/components/schemas/{name}")
    assert DOCUMENT["components"]["schemas"] == schemas, "write the schemas of msgspec into docs/asyncapi.yaml"


def test_every_topic_of_the_contract_carries_its_type() -> None:
    names = (*topics.EVENT_TOPICS, *topics.CATALOG_TOPICS, *topics.RECOMMENDATION_TOPICS)
    assert set(DOCUMENT["channels"]) == set(names)
    for name, type_ in zip((*events.TYPES, *topics.RECOMMENDATION_TOPICS), TYPES, strict=True):
        channel = DOCUMENT["channels"][name]
        assert channel["address"] == name
        assert channel["messages"] == {type_.__name__: {"$ref": f"#/components/messages/{type_.__name__}"}}
        payload = DOCUMENT["components"]["messages"][type_.__name__]["payload"]
        assert payload == {"$ref": f"#/components/schemas/{type_.__name__}"}


def test_every_channel_has_an_operation() -> None:
    channels = {operation["channel"]["$ref"] for operation in DOCUMENT["operations"].values()}
    assert channels == {f"#/channels/{name}" for name in DOCUMENT["channels"]}
