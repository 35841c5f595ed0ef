CREATE VIEW report.line AS
SELECT
    l.path AS line,
    l.name,
    s.code AS site,
    s.name AS site_name,
    s.zone,
    l.area,
    p.code AS product,
    p.name AS product_name,
    l.active AS is_active
FROM mes.line l
JOIN mes.site s USING (site_id)
JOIN mes.product p USING (product_id);

COMMENT ON VIEW report.line IS 'The lines that the plant has, with or without events.';
COMMENT ON COLUMN report.line.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.line.name IS 'what people call the line';
COMMENT ON COLUMN report.line.site IS 'code of the site';
COMMENT ON COLUMN report.line.site_name IS 'what people call the site';
COMMENT ON COLUMN report.line.zone IS 'IANA time zone of the site';
COMMENT ON COLUMN report.line.area IS 'code of the area';
COMMENT ON COLUMN report.line.product IS 'cell type that the line makes';
COMMENT ON COLUMN report.line.product_name IS 'what people call the cell type';
COMMENT ON COLUMN report.line.is_active IS 'whether the seeds still name the line';
