"""`lsvcr evaluate reading`: what a language model's vectors are worth before hours of training."""

from __future__ import annotations

from pathlib import Path

import click

from infra.cli.rankings import bar, json_option, limit_option, protocol_option, show

_DIR = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--log", "log_dir", type=_DIR, required=True, help="A folder as `lsvcr convert` writes it.")
@click.option(
    "--llm",
    default="smollm2",
    show_default=True,
    help="A folder, a GGUF file, a name of the Hugging Face hub, or the default.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    multiple=True,
    default=(16,),
    show_default=True,
    help="How much of a text is read; may be repeated.",
)
@click.option("--language", type=click.Choice(("en", "zh")), default="en", show_default=True)
@click.option(
    "--part",
    type=click.Choice(("valid", "test")),
    default="valid",
    show_default=True,
    help="Whose targets are ranked: what is chosen by the test part has been seen there.",
)
@protocol_option
@limit_option
@click.option(
    "--cache",
    default="./.lsvcr-cache",
    show_default=True,
    type=_DIR,
    help="As in `train full`: vectors are kept there.",
)
@json_option
def reading(
    log_dir: Path,
    llm: str,
    tokens: tuple[int, ...],
    language: str,
    part: str,
    protocols: tuple[str, ...],
    limit: int | None,
    cache: Path,
    as_json: bool,
) -> None:
    """Rank comments by a language model's vectors, untrained, for each way of reading texts.

    Choose `align.text_tokens`, `align.equalised` and the model itself by this, before a run of both stages: it only
    reads the texts that the targets are ranked with, twice for each --tokens. With --limit 300 a third of Rotten
    Tomatoes' are.
    """
    from offline_train.corpus import Corpus, temporal_split
    from offline_train.llm import LLMError
    from offline_train.log import LogError
    from offline_train.prompts import LANGUAGES
    from offline_train.study.reading import WORDS, readings

    try:
        corpus = Corpus.read(log_dir)
        with bar("reading texts") as advance:
            results = readings(
                corpus,
                temporal_split(corpus),
                llm,
                cache,
                tokens=tokens,
                language=language,
                protocols=protocols,
                part=part,
                limit=limit,
                report=advance,
            )
    except (LogError, LLMError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    show(results, as_json)
    click.echo(
        f"{tokens[0]}: tokens of a text that are read; {WORDS}+: after {LANGUAGES[language].text!r}, as by stage 1.\n"
        "plain, half, whitened: components of the standardised vectors as they are, half equalised, equal: "
        "align.equalised 0, 0.5 (the default) and 1.\n"
        "Each row is the cosine to the mean of the user's own comments; nothing is trained.",
        err=as_json,
    )
