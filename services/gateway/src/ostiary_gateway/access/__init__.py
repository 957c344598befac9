"""Admission: from a request's head to the route that it takes, or to the response that rejects it."""
