"""What the language model is told: a user's two histories as numbered lines, and what it shall say next.

A prompt is a list of pieces: literal strings, and integers that stand for texts of the corpus. Texts are tokenised
once and cut to a length each, which a prompt as one string would not allow. Two templates per task differ in which
history comes first, in English and in Chinese.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Piece = str | int
TEMPLATES = 2
NO_TEXT = -1


@dataclass(frozen=True)
class Words:
    """The phrases of one language."""

    video_task: str
    comment_task: str
    videos: str
    comments: str
    nothing: str
    popular: str  #: between a title and a popular comment
    said: str  #: between a title and the user's comments
    also: str  #: between two comments of one line
    current: str
    video_answer: str
    comment_answer: str
    text: str  #: before a title or comment that is read alone


LANGUAGES = {
    "en": Words(
        video_task="Here is what one viewer has been up to. Work out which video this viewer will want to see next.\n",
        comment_task="Here is what one viewer has been up to. Work out which comment this viewer will respond to.\n",
        videos="Videos seen, the latest last:\n",
        comments="Comments this viewer cared about, the latest last:\n",
        nothing="none yet\n",
        popular=' | people say: "',
        said=' | this viewer: "',
        also='"; "',
        current="Now on: ",
        video_answer="Next video:",
        comment_answer="Comment:",
        text='This text: "',
    ),
    "zh": Words(
        video_task="下面是一位观众最近的行为。请推断这位观众接下来想看的视频。\n",
        comment_task="下面是一位观众最近的行为。请推断这位观众会对哪条评论感兴趣。\n",
        videos="看过的视频，最近的在最后：\n",
        comments="互动过的评论，最近的在最后：\n",
        nothing="暂无\n",
        popular="｜热门评论：“",
        said="｜这位观众的评论：“",
        also="”；“",
        current="正在观看：",
        video_answer="下一个视频：",
        comment_answer="评论：",
        text="这段文字：“",
    ),
}


def prompt(
    videos: Sequence[tuple[int, int]],
    comments: Sequence[tuple[int, Sequence[int]]],
    current: int | None,
    *,
    template: int = 0,
    language: str = "en",
) -> list[Piece]:
    """The pieces of a prompt.

    Args:
        videos: title and popular comment (or NO_TEXT) of each video, oldest first.
        comments: title, and the user's comments, of each record, oldest first.
        current: the title of the video whose comment is asked for; None asks for the next video.
        template: 0: videos first; 1: comments first.
    """
    words = LANGUAGES[language]
    quote = "”\n" if language == "zh" else '"\n'
    video_lines: list[Piece] = [words.videos, *([] if videos else [words.nothing])]
    for number, (title, comment) in enumerate(videos, 1):
        video_lines += [f"{number}. ", title]
        video_lines += ["\n"] if comment == NO_TEXT else [words.popular, comment, quote]
    comment_lines: list[Piece] = [words.comments, *([] if comments else [words.nothing])]
    for number, (title, texts) in enumerate(comments, 1):
        comment_lines += [f"{number}. ", title, words.said]
        for place, text in enumerate(texts):
            comment_lines += [words.also, text] if place else [text]
        comment_lines.append(quote)
    histories = [video_lines, comment_lines][:: -1 if template else 1]
    task = words.video_task if current is None else words.comment_task
    closing: list[Piece] = (
        [words.video_answer] if current is None else [words.current, current, "\n", words.comment_answer]
    )
    return [task, *histories[0], *histories[1], *closing]
