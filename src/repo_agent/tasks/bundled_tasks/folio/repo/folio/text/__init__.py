from folio.text.letters import initial, plain

__all__ = ["initial", "plain"]
