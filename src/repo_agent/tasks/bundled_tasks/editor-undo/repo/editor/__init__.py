from editor.session import Session

__all__ = ["Session"]
