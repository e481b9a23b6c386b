"""The engines. Only these modules import an ML library, and only a worker process imports these modules."""
