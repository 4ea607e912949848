"""What this API calls the fields that validation names after GenerateRequest's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from scheduler_svc.api.draft import StructureKind
from scheduler_svc.errors import InvalidRequest

_SAME_IN_BOTH = {
    "sampling": "",
    "stop.stop_strings": "stop",
    "stop.stop_token_ids": "stop_token_ids",
    "stop": "",
    "targets": "",
    "session": "",
    "beam_search.num_returned": "n",
    "beam_search": "",
}
_OF_CHATS = {
    "chat.tools": "tools",
    "chat.tool_choice": "tool_choice",
    "chat.template_variables": "chat_template_kwargs",
    "chat.reasoning_effort": "reasoning_effort",
    "chat.continue_final_message": "continue_final_message",
}


@dataclass(frozen=True, slots=True)
class FieldNames:
    """The names of one request's fields.

    Attributes:
        names: Our names by those of GenerateRequest; a name stands for what begins with it, too, as in name.part or
            name[3]. An empty one leaves only the part.
    """

    names: Mapping[str, str]

    @classmethod
    def of(
        cls,
        *,
        prompt: str,
        max_tokens: str = "",
        top_logprobs: str = "",
        prompt_logprobs: str = "",
        structure: str = "",
        beam_width: str = "beam_width",
    ) -> "FieldNames":
        """Returns the names where these are called so."""
        prompts = dict.fromkeys(("text", "chat.messages", "chat", "token_ids.ids", "prompt"), prompt)
        others = _OF_CHATS | {
            "stop.max_tokens": max_tokens,
            "num_top_logprobs": top_logprobs,
            "num_prompt_logprobs": prompt_logprobs,
            "beam_search.beam_width": beam_width,
        }
        others |= {f"structure.{kind}": structure for kind in StructureKind}
        return cls({**others, **_SAME_IN_BOTH, **prompts})

    def translated(self, error: InvalidRequest) -> InvalidRequest:
        """Returns the error with our name of its field; of names that stand for it, the longest counts."""
        name = error.field
        while name and name not in self.names:
            name = name[: max(name.rfind("."), name.rfind("["), 0)]
        if not name:
            return error
        ours, rest = self.names[name], error.field.removeprefix(name)
        return error.called(ours + rest if ours else rest.lstrip("."))

    @contextmanager
    def told(self) -> Iterator[None]:
        """Gives fields that the block refuses our names."""
        try:
            yield
        except InvalidRequest as error:
            raise self.translated(error) from error
