"""Which form prompts are sent in, and where that can't be."""

import typer
from qllm.client.bench.load.prompts import PromptForm


def chosen_form(form: PromptForm | None, *, chat: bool) -> PromptForm:
    """Returns the form that was chosen, else token ids, or text in a conversation.

    Raises:
        typer.BadParameter: Token ids were chosen for a conversation.
    """
    if chat and form is PromptForm.TOKENS:
        raise typer.BadParameter("a conversation has no token ids: give text", param_hint="--prompt-form")
    return form or (PromptForm.TEXT if chat else PromptForm.TOKENS)
