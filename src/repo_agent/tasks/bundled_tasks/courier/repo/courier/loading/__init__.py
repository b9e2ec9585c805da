from courier.loading.loader import Loader

__all__ = ["Loader"]
