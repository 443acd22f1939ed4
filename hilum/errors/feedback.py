"""Errors of readers' feedback."""

from __future__ import annotations

from hilum.errors.tree import PermanentError


class FeedbackLabelError(PermanentError):
    """The model that scored the image has no such finding."""

    code = "feedback.label_unknown"
    next_step = "Use the labels named above."


class ResultReplacedError(PermanentError):
    """The image no longer shows the result that the reader has seen."""

    code = "feedback.result_replaced"
    next_step = "Show the reader the image's result again, and send what they say of it."
