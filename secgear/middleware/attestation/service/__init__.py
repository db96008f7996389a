"""The verification service: challenges, appraisals and their results over HTTP.

`create_app` makes the ASGI application, `serve` runs it. The parts are reusable: the database
(`store`), administrators (`tokens`), the audit trail (`audit`), nonces and limits.
"""
